package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"kmsfs/keysource/kms/audit"
)

// auditInfo is the output of kms audit verify.
type auditInfo struct {
	Lines     int64  `json:"lines"`
	First     uint64 `json:"first_sequence"`
	Last      uint64 `json:"last_sequence"`
	Head      string `json:"head"`
	TornBytes int64  `json:"torn_bytes"`
}

// kmsAuditCommand is kmsfs kms audit and all below it.
func (a *app) kmsAuditCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use: "audit", Short: "Check the audit log of the KMS server",
		Long: "Check the audit log of the KMS server: lines of JSON in the shape of AWS CloudTrail, each with the hash of the one before.",
	})
	cmd.AddCommand(a.kmsAuditVerifyCommand())
	return cmd
}

// kmsAuditVerifyCommand is kmsfs kms audit verify.
func (a *app) kmsAuditVerifyCommand() *cobra.Command {
	var out outputFlags
	var heads []string
	cmd := &cobra.Command{
		Use:   "verify FILE...",
		Short: "Verify the chain of an audit log",
		Long: `Verify that no line of an audit log was changed, removed or put in, and name the first bad line. Of a log that was
renamed for its size, give all files in order.

Who can write the file can also make a new chain from some line on, or cut off its end: only a head that was kept
elsewhere shows that. The server logs the head when it begins and ends, and this command prints it; give it with --head.`,
		Example: `  kmsfs kms audit verify /var/log/kmsfs-kms/audit.log
  kmsfs kms audit verify --head 4096:9f2c... audit.log.00000000000000004096 audit.log`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return hintf(faultf(errUsage, "FILE is missing"), "%s", cmd.UseLine())
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			i, err := verifyAudit(args, heads)
			if err != nil {
				return err
			}
			if out.json {
				return writeJSON(a.stdout, i)
			}
			torn := ""
			if i.TornBytes > 0 {
				torn = fmt.Sprintf("%d bytes of a last line without an end", i.TornBytes)
			}
			return writeFields(a.stdout, "lines", strconv.FormatInt(i.Lines, 10), "sequence", fmt.Sprintf("%d to %d", i.First, i.Last),
				"head", fmt.Sprintf("%d:%s", i.Last, i.Head), "torn", torn)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringArrayVar(&heads, "head", nil, "`SEQUENCE:HASH` of a line that must be there, several times if need be")
	out.add(f)
	return cmd
}

// verifyAudit verifies files that follow each other, in which all heads must be.
func verifyAudit(paths, heads []string) (auditInfo, error) {
	missing := map[string]bool{}
	for _, h := range heads {
		sequence, hash, ok := strings.Cut(h, ":")
		if _, err := strconv.ParseUint(sequence, 10, 64); err != nil || !ok || len(hash) != 64 {
			return auditInfo{}, hintf(faultf(errUsage, "--head %q is not SEQUENCE:HASH", h), "--head as this command prints it")
		}
		missing[strings.ToLower(h)] = true
	}
	var i auditInfo
	var after audit.Head
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return i, err
		}
		s, err := audit.Verify(f, after, func(h audit.Head) {
			delete(missing, fmt.Sprintf("%d:%s", h.Sequence, h))
		})
		_ = f.Close()
		if err != nil {
			return i, hintf(fmt.Errorf("%s: %w", path, err), "the lines before it are as they were written; compare what follows with a copy kept elsewhere")
		}
		if i.TornBytes > 0 {
			return i, fmt.Errorf("a file before %s does not end with a line: %w", path, audit.ErrBroken)
		}
		if i.First == 0 {
			i.First = s.First
		}
		after = s.Head
		i.Lines += s.Lines
		i.TornBytes = s.TornBytes
	}
	i.Last, i.Head = after.Sequence, after.String()
	var lost []error
	for h := range missing {
		lost = append(lost, fmt.Errorf("the line of head %s is not there: %w", h, audit.ErrBroken))
	}
	return i, errors.Join(lost...)
}
