package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"kmsfs/envelope"
	"kmsfs/keysource"
	"kmsfs/keysource/local"
)

// diagnosis is the output of doctor.
type diagnosis struct {
	Keysource string     `json:"keysource"`
	Key       string     `json:"key"`
	CMK       string     `json:"cmk,omitempty"`
	KeyState  string     `json:"key_state,omitempty"`
	OK        bool       `json:"ok"`
	Checks    []finding  `json:"checks"`
	Missing   []string   `json:"missing_permissions,omitempty"`
	Policy    *keyPolicy `json:"key_policy,omitempty"`
}

// finding is what one call came to.
type finding struct {
	Call       string  `json:"call"`
	Permission string  `json:"permission"`
	Result     string  `json:"result"` // ok, failed, or not tried
	Millis     float64 `json:"milliseconds"`
	Error      string  `json:"error,omitempty"`

	err error
}

// Results of a finding.
const (
	resultOK       = "ok"
	resultFailed   = "failed"
	resultNotTried = "not tried"
)

// doctorCommand is kmsfs doctor.
func (a *app) doctorCommand() *cobra.Command {
	var out outputFlags
	var secrets secretFlags
	var key string
	cmd := &cobra.Command{
		Use:   "doctor KEYSOURCE",
		Short: "Try all that a mount needs of a keysource",
		Long: `Try each call that a mount needs of a keysource, with a data key that is thrown away: DescribeKey, GenerateDataKey,
Decrypt, ReEncrypt, and that another encryption context is refused. Say which permission is missing, and print the least
key policy that would do, to be filled in with who mounts. Nothing is changed.

The exit code is that of the first call that failed: 16 denied, 15 disabled, 17 no such CMK, 18 cannot be reached.`,
		Example: `  kmsfs doctor 'awskms:///alias/files?region=eu-central-1'
  kmsfs doctor --json local:/srv/keys`,
		Args: args("KEYSOURCE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			flags := storeFlags{secretFlags: secrets, url: args[0]}
			d := diagnosis{Key: key}
			var err error
			if d.Keysource, err = flags.fromURL(); err != nil {
				return err
			}
			secret, _, err := flags.source(a)
			if err != nil {
				return err
			}
			ks, err := openKeysource(cmd.Context(), mountPlan{MasterKeyFile: flags.masterKeyFile}, d.Keysource, secret, nil)
			if err != nil {
				return err
			}
			defer ks.Close()
			d.examine(cmd.Context(), keysource.NewRetry(ks, keysource.RetryConfig{}))
			return errors.Join(d.write(a, out), d.failure())
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&key, "key", "", "`CMK` to try, an alias, ARN or id (default: that of the URL, else alias/aws/kmsfs)")
	secrets.add(f)
	out.add(f)
	return cmd
}

// examine makes the calls.
func (d *diagnosis) examine(ctx context.Context, ks keysource.Keysource) {
	u, err := keysource.ParseURL(d.Keysource)
	if d.Key == "" {
		if d.Key = string(u.Key); d.Key == "" {
			d.Key = local.DefaultAlias
		}
	}
	key := keysource.KeyRef(d.Key)
	var volume envelope.VolumeID
	var file envelope.FileID
	rand.Read(volume[:])
	rand.Read(file[:])
	kc := envelope.FileContext(volume, file)

	d.try("DescribeKey", "kms:DescribeKey", true, func() error {
		md, err := ks.DescribeKey(ctx, key)
		d.CMK, d.KeyState = md.ARN, string(md.KeyState)
		return err
	})
	var dk keysource.DataKey
	d.try("GenerateDataKey", "kms:GenerateDataKey", true, func() (err error) {
		dk, err = ks.GenerateDataKey(ctx, keysource.GenerateDataKeyInput{KeyID: key, EncryptionContext: kc})
		return err
	})
	defer dk.Plaintext.Wipe()
	made := len(dk.CiphertextBlob) > 0
	cmk := keysource.KeyRef(dk.KeyID)
	decrypt := func(blob []byte, kc keysource.Context) error {
		r, err := ks.Decrypt(ctx, keysource.DecryptInput{CiphertextBlob: blob, EncryptionContext: kc, KeyID: cmk})
		defer r.Plaintext.Wipe()
		if err == nil && !r.Plaintext.Equal(dk.Plaintext) {
			return faultf(keysource.ErrUnavailable, "another data key came back than was wrapped")
		}
		return err
	}
	opens := d.try("Decrypt", "kms:Decrypt", made, func() error { return decrypt(dk.CiphertextBlob, kc) })
	d.try("Decrypt, wrong context", "kms:Decrypt", opens, func() error {
		err := decrypt(dk.CiphertextBlob, envelope.VolumeContext(volume))
		switch {
		case err == nil:
			return faultf(keysource.ErrInvalidCiphertext, "the wrapped key opened under another encryption context")
		case errors.Is(err, keysource.ErrInvalidCiphertext):
			return nil
		case errors.Is(err, keysource.ErrDenied): // by a condition on the context: also a refusal
			return nil
		}
		return err
	})
	d.try("ReEncrypt", "kms:ReEncryptFrom, kms:ReEncryptTo", made, func() error {
		r, err := ks.ReEncrypt(ctx, keysource.ReEncryptInput{CiphertextBlob: dk.CiphertextBlob, SourceEncryptionContext: kc,
			SourceKeyID: cmk, DestinationKeyID: key, DestinationEncryptionContext: kc})
		if err != nil || !opens {
			return err
		}
		return decrypt(r.CiphertextBlob, kc)
	})
	d.OK = d.failure() == nil
	if err == nil && u.Scheme == keysource.SchemeAWSKMS {
		d.Policy = leastPolicy(d.CMK)
	}
}

// try makes a call where that makes sense, and notes what it came to.
func (d *diagnosis) try(call, permission string, sensible bool, do func() error) bool {
	f := finding{Call: call, Permission: permission, Result: resultNotTried}
	if sensible {
		start := time.Now()
		f.err = do()
		f.Millis = float64(time.Since(start).Microseconds()) / 1000
		f.Result = resultOK
	}
	if f.err != nil {
		f.Result, f.Error = resultFailed, oneLine(f.err.Error())
		if errors.Is(f.err, keysource.ErrDenied) {
			d.Missing = append(d.Missing, permission)
		}
	}
	d.Checks = append(d.Checks, f)
	return f.Result == resultOK
}

// failure is the error of the first call that failed.
func (d *diagnosis) failure() error {
	for _, f := range d.Checks {
		if f.err == nil {
			continue
		}
		err := fmt.Errorf("%s failed on %s: %w", f.Call, d.Key, f.err)
		if errors.Is(err, keysource.ErrDenied) {
			return hintf(err, "have the key policy of the CMK, or the policies of the caller, allow %s", f.Permission)
		}
		return err
	}
	return nil
}

// write prints the diagnosis.
func (d *diagnosis) write(a *app, out outputFlags) error {
	if out.json {
		return writeJSON(a.stdout, d)
	}
	if err := writeFields(a.stdout, "keysource", d.Keysource, "key", d.Key, "cmk", d.CMK, "key state", d.KeyState); err != nil {
		return err
	}
	fmt.Fprintln(a.stdout)
	var rows [][]string
	for _, f := range d.Checks {
		took := ""
		if f.Result != resultNotTried {
			took = strconv.FormatFloat(f.Millis, 'f', 1, 64) + " ms"
		}
		rows = append(rows, []string{f.Call, f.Permission, f.Result, took, f.Error})
	}
	if err := writeTable(a.stdout, []string{"CALL", "PERMISSION", "RESULT", "TIME", "ERROR"}, rows); err != nil {
		return err
	}
	for _, p := range d.Missing {
		fmt.Fprintf(a.stdout, "\nmissing: %s\n", p)
	}
	if d.Policy == nil {
		return nil
	}
	fmt.Fprint(a.stdout, "\nThe least key policy for who mounts, beside what the administrators of the CMK need:\n\n")
	return writeJSON(a.stdout, d.Policy)
}
