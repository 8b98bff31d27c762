package server

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"kmsfs/keysource/kms/audit"
	"kmsfs/keysource/kms/identity"
	"kmsfs/keysource/kms/sigv4"
)

// TestProtocolDocument checks the numbers and names in PROTOCOL.md against the code.
func TestProtocolDocument(t *testing.T) {
	b, err := os.ReadFile("../../PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(string(b)), " ")
	for _, want := range []string{
		targetPrefix + "OPERATION", contentType, codeUnknownOperation, codeSerialization, codeTooLarge,
		fmt.Sprintf("at most %d bytes of UTF-8", MaxBodySize),
		sigv4.CodeMissingToken + ":", sigv4.CodeIncomplete + ":", sigv4.CodeUnrecognized + ":", sigv4.CodeInvalid + ":",
		fmt.Sprintf("may be %.0f minutes", sigv4.MaxSkew.Minutes()),
		fmt.Sprintf("document `%s`", identity.DocumentName),
		fmt.Sprintf("At most %d access keys and %d policies", identity.MaxAccessKeys, identity.MaxPolicies),
		fmt.Sprintf("A line has at most %d bytes", audit.MaxRecordSize),
		fmt.Sprintf("at most %d ms later", audit.DefaultSyncEvery/time.Millisecond),
		"kmsfs_kms_calls_total", "kmsfs_kms_call_seconds", "kmsfs_kms_calls_in_flight", "kmsfs_kms_connections",
		"kmsfs_kms_audit_sequence", "kmsfs_kms_audit_writable",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("PROTOCOL.md does not say %q", want)
		}
	}
}
