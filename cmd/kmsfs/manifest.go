package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/manifest"
)

// manifestFlags are the flags of manifest.
type manifestFlags struct {
	storeFlags
	output string
}

// manifestCommand is kmsfs manifest.
func (a *app) manifestCommand() *cobra.Command {
	var m manifestFlags
	cmd := &cobra.Command{
		Use:   "manifest VAULT",
		Short: "Write a signed listing of what is stored",
		Long: `Write a manifest of a vault: the BLAKE3 of every stored file, of the key tables and vault.json, and of every directory over
what is in it, signed with a key that follows from the volume key. Who keeps a copy of the vault and has no keys proves with it,
by kmsfs verify --manifest, that the copy is what was sent; files that were put back as they were earlier, exchanged, added or
removed are found. It covers names and contents, not modes, owners, times and extended attributes.

The public key goes to standard error: keep it where the copy is verified, for --signer. It is the same for all manifests of a
vault. VAULT may be mounted; take the copy and the manifest while it is frozen (kmsfs freeze) if they are to agree.`,
		Example: `  kmsfs manifest --output vault.manifest ~/vault
  kmsfs manifest ~/vault | ssh backup 'cat > vault.manifest'`,
		Args: args("VAULT"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.writeManifest(cmd.Context(), &m, args[0]) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVarP(&m.output, "output", "o", "", "`FILE` to write, in place of standard output; it is old or new as a whole")
	m.addOverrides(f)
	return cmd
}

// writeManifest writes the manifest of the vault at path.
func (a *app) writeManifest(ctx context.Context, m *manifestFlags, path string) (err error) {
	o, err := a.openVault(ctx, &m.storeFlags, path, vault.ReadOnly)
	if err != nil {
		return err
	}
	defer o.closeInto(&err)
	top, err := backing.OpenDir(o.plan.Vault)
	if err != nil {
		return explain(err, o.plan)
	}
	defer top.Close()
	out := newVerifyOutput(a, &verifyFlags{})
	defer out.clear()
	var made *manifest.Manifest
	write := func(w io.Writer) (err error) {
		made, err = manifest.Create(ctx, top, o.Vault, manifest.Contents, time.Now(), w, out.progress)
		return err
	}
	if m.output == "" {
		err = write(a.stdout)
	} else {
		err = writeFileAside(m.output, write)
	}
	if err != nil {
		return faultf(err, "manifest of %s: %w", o.plan.Vault, err)
	}
	out.clear()
	_, err = fmt.Fprintf(a.stderr, "signer: %x\nroot: %x\n", []byte(made.Signer), made.Root())
	return err
}

// writeFileAside makes what write writes the content of the file at path: after a failure or a crash it is old or new.
func writeFileAside(path string, write func(io.Writer) error) (err error) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	if st, err := os.Stat(path); err == nil && !st.Mode().IsRegular() { // /dev/stdout, a FIFO: to be written to, not replaced
		return writeInto(path, write)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.new")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// writeInto writes to what is at path, which is no regular file.
func writeInto(path string, write func(io.Writer) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	err = write(f)
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}
