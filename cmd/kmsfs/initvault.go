package main

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/keysource"
	"kmsfs/keysource/local"
)

// initCommand is kmsfs init.
func (a *app) initCommand() *cobra.Command {
	var flags storeFlags
	var key, branch string
	var alsoWrap []string
	var chunkSize int
	cmd := &cobra.Command{
		Use:   "init VAULT",
		Short: "Make a vault in an empty directory",
		Long: `Make a vault in an empty directory, which is made where it is missing. Its volume key is wrapped by a CMK of the
key store; a local key store is made where it is missing, with the CMK alias/aws/kmsfs. Without --key-store the key
store is /var/lib/kmsfs for root, else $XDG_DATA_HOME/kmsfs or ~/.local/share/kmsfs.

A new key store is sealed under a master key file of mode 0600 inside it, or under a passphrase where --passphrase-from
is given. Who loses the key store or its master key loses the vault: keep a backup of both.

With --keysource awskms:///alias/NAME the CMK stays in AWS KMS, or in a server of its protocol, and nothing is made there;
kmsfs doctor says whether all is permitted that a mount needs. --branch-keys saves calls: a branch key, which the CMK wraps,
wraps many data keys. The KMS then logs the use of branch keys, not of files.`,
		Example: `  kmsfs init ~/vault
  kmsfs init --key-store /media/usb/keys --passphrase-from prompt ~/vault
  kmsfs init --keysource 'awskms:///alias/files?region=eu-central-1' ~/vault`,
		Args: args("VAULT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkNewVault(key, chunkSize); err != nil {
				return err
			}
			if err := checkAlsoWrap(alsoWrap); err != nil {
				return err
			}
			secret, sealNew, err := flags.source(a)
			if err != nil {
				return err
			}
			p := mountPlan{Init: true, Key: key, ChunkSize: chunkSize, MasterKeyFile: flags.masterKeyFile, SealNew: sealNew, KnownStore: a.knownStore()}
			if p.Vault, err = resolve(args[0]); err != nil {
				return err
			}
			if p.NewKeysource, err = flags.orDefault(a); err != nil {
				return err
			}
			if p.NewKeysource, err = withBranchKeys(p.NewKeysource, branch); err != nil {
				return err
			}
			ks, err := openKeysource(cmd.Context(), p, p.NewKeysource, secret, func(dir string) {
				fmt.Fprintf(a.stdout, "made key store %s\n", dir)
			})
			if err != nil {
				return err
			}
			defer ks.Close()
			if err := makeVault(cmd.Context(), p, ks, alsoWrap...); err != nil {
				return err
			}
			fmt.Fprintf(a.stdout, "made vault %s\n", p.Vault)
			return nil
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&flags.dir, "key-store", "", "`DIR` of the key store; made where it is missing")
	f.StringVar(&flags.url, "keysource", "", "`URL` of the keysource: local:DIR or awskms:///KEY?OPTIONS")
	f.StringVar(&key, "key", "", "`CMK` of the vault, an alias, ARN or id (default: that of the URL, else alias/aws/kmsfs)")
	f.StringArrayVar(&alsoWrap, "also-wrap", nil, "a further `CMK` of the keysource that wraps every data key, so that either opens; by its ARN also one in another region; up to 7 times")
	f.StringVar(&branch, "branch-keys", "", "wrap data keys under branch keys, each for an age and a count of keys: `LIMITS` such as 1h,10000")
	f.Lookup("branch-keys").NoOptDefVal = "default"
	f.IntVar(&chunkSize, "chunk-size", 0, "`BYTES` of a chunk: 4096 (default), 16384, 65536")
	flags.secretFlags.add(f)
	return cmd
}

// checkNewVault refuses a CMK or chunk size that a vault cannot have, before anything is made.
func checkNewVault(key string, chunkSize int) error {
	if key != "" {
		if _, err := keysource.KeyRef(key).Parse(); err != nil {
			return hintf(faultf(errUsage, "--key: %w", err), "--key alias/NAME; kmsfs key list has the CMKs")
		}
	}
	if chunkSize != 0 {
		if _, err := envelope.NewGeometry(chunkSize); err != nil {
			return hintf(faultf(errUsage, "--chunk-size is 4096, 16384 or 65536, not %d", chunkSize), "--chunk-size 4096")
		}
	}
	return nil
}

// withBranchKeys adds limits of branch keys to a key source URL.
func withBranchKeys(s, limits string) (string, error) {
	if limits == "" {
		return s, nil
	}
	u, err := keysource.ParseURL(s)
	if err != nil {
		return "", err
	}
	if u.Scheme != keysource.SchemeAWSKMS {
		return "", hintf(faultf(errUsage, "--branch-keys saves calls to a KMS, and a local key store is none"), "leave it out")
	}
	if u.Branch, err = keysource.ParseBranchLimits(limits); err != nil {
		return "", hintf(faultf(errUsage, "--branch-keys: %w", err), "--branch-keys=1h,10000")
	}
	return u.String(), nil
}

// checkAlsoWrap refuses CMKs that a vault cannot have besides its own.
func checkAlsoWrap(keys []string) error {
	if len(keys) > envelope.WrappingsMax-1 {
		return hintf(faultf(errUsage, "--also-wrap: a data key has at most %d wrappings", envelope.WrappingsMax), "name fewer CMKs")
	}
	for _, key := range keys {
		if _, err := keysource.KeyRef(key).Parse(); err != nil {
			return hintf(faultf(errUsage, "--also-wrap: %w", err), "--also-wrap alias/NAME")
		}
	}
	return nil
}

// makeVault makes the vault of p, and its directory where that is missing. Further CMKs wrap its keys too.
func makeVault(ctx context.Context, p mountPlan, ks keysource.Keysource, alsoWrap ...string) error {
	if err := makeDir(p.Vault); err != nil {
		return err
	}
	top, err := backing.OpenDir(p.Vault)
	if err != nil {
		return explain(err, p)
	}
	defer top.Close()
	c := vault.CreateConfig{Keysource: p.NewKeysource, Key: p.Key, ChunkSize: p.ChunkSize, AlsoWrap: alsoWrap}
	if c.Key == "" {
		c.Key = local.DefaultAlias
		if u, err := keysource.ParseURL(p.NewKeysource); err == nil && u.Key != "" {
			c.Key = string(u.Key)
		}
	}
	if err := vault.Create(ctx, top, keysource.NewRetry(ks, keysource.RetryConfig{}), c); err != nil {
		return explain(err, p)
	}
	if cfg, err := vault.ReadConfig(top); err == nil {
		if err := forgetKnown(p.KnownStore, p.Vault, p.NewKeysource); err != nil {
			return err
		}
		noteVault(p.NewKeysource, p.Vault, cfg, slog.New(slog.DiscardHandler)) // the first mount warns
	}
	return nil
}

// makeDir makes a directory that only its owner can enter, where it is missing.
func makeDir(path string) error {
	err := os.Mkdir(path, 0o700)
	switch {
	case errors.Is(err, iofs.ErrExist):
		return nil
	case errors.Is(err, iofs.ErrNotExist):
		return hintf(err, "mkdir -p %s", quote(path))
	}
	return err
}
