package kms

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"kmsfs/keysource"
)

// TestProtocolDocument compares the table of operations in PROTOCOL.md with the code.
func TestProtocolDocument(t *testing.T) {
	b, err := os.ReadFile("../PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, op := range slices.Sorted(maps.Keys(Operations())) {
		want = append(want, protocolRow(op))
	}
	if table := strings.Join(want, "\n") + "\n"; !strings.Contains(string(b), "|---|---|---|---|---|---|---|\n"+table+"\n\"disabled\" is") {
		t.Errorf("PROTOCOL.md has not this table:\n%s", table)
	}
}

// protocolRow is the line of an operation in PROTOCOL.md.
func protocolRow(op string) string {
	permission := "kms:" + op
	switch op {
	case "ReEncrypt":
		permission = "kms:ReEncryptFrom, kms:ReEncryptTo"
	case "CreateKey":
		permission = "(kms:CreateKey), with tags (kms:TagResource)"
	case "CreateAlias", "UpdateAlias", "DeleteAlias":
		permission += ", (" + permission + ")"
	case "GenerateRandom", "ListAliases", "ListKeys", "ListRetirableGrants":
		permission = "(" + permission + ")"
	case "RetireGrant":
		permission += ", or the grant's"
	}
	r := table[op]
	mark := map[keysource.KeyOrigin]string{keysource.OriginAWSKMS: " +", keysource.OriginExternal: " *"}[r.origin]
	line := fmt.Sprintf("| %s%s | %s |", op, mark, permission)
	for i := range states {
		word := map[verdict]string{yes: "yes", no: "state", not: "not pending"}[r.in[i]]
		if r.in[i] == no && states[i] == keysource.KeyStateDisabled {
			word = "disabled"
		}
		if _, ok := table[op]; !ok && (op == "CreateKey" || permission[0] == '(' && op != "ListAliases") {
			word = "" // concerns no CMK
		}
		line += strings.TrimRight(" "+word, " ") + " |"
	}
	return line
}
