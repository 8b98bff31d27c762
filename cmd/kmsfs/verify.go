package main

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"os"
	"runtime/debug"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"kmsfs/fs/vault"
	"kmsfs/fs/vault/check"
	"kmsfs/fs/vault/manifest"
)

// verifyFlags are the flags of verify.
type verifyFlags struct {
	storeFlags
	out       outputFlags
	noKeys    bool
	repair    bool
	manifest  string
	signer    string
	newerThan string
	keyUnused string
	shard     string

	want   *manifest.Manifest // of --manifest
	signed ed25519.PublicKey  // of --signer
}

// verifyCommand is kmsfs verify.
func (a *app) verifyCommand() *cobra.Command {
	var v verifyFlags
	cmd := &cobra.Command{
		Use:   "verify PATH...",
		Short: "Find damage in vaults, backups and restored copies",
		Long: `Look for damage in vaults. A PATH is a vault, mounted or not, a restored copy, or a directory with vaults somewhere below it,
such as a mount of a backup program; media that are read-only do. With the keys, every name, file, symbolic link and extended
attribute is opened; the keysource is asked for every key. With --no-keys the structure is looked at: that every stored name and
file has the right form, that the parts of each file agree, that its key record is there and whole. Each finding is a line: the
vault, what it is about, the path, the stored path in brackets, and of a file which bytes do not open.

While the vault is mounted, what is found may be a change under way: it is looked at again with the vault opened anew, after
seconds, and where the mount is on this machine at last with the mount frozen for a moment, as kmsfs ctl freeze does.

With --manifest, every stored file is compared with what kmsfs manifest wrote, so that files that are missing, were added, put
back as they were earlier, or exchanged are found too. Who has no keys names the key that the manifest must be signed with by
--signer, which implies --no-keys; kmsfs manifest prints it.

With --repair, what is damaged is moved into .kmsfs/damaged/TIME in the vault, each to its stored path there, so that it can be
moved back; nothing is deleted. A file of which some bytes do not open is moved too: --json and the lines say how much of it
opens. A key table of which only the header is damaged is mended. The vault must not be mounted.

Exit code 0 says that no damage was found, 3 that there is some, also where --repair has moved it aside. What could not be
looked at, by a refusal of the keysource or an error of the disk, is no damage: it is told, all else is looked at, and the exit
code is that of its error.

With --key-unused, vaults are looked through for all that needs a CMK or one of its key materials: data keys of files, of files
that were deleted and not yet erased, and made ahead; volume keys; branch keys; the CMKs of new files and of encryption zones;
what a replacement that was cut short has left. Exit code 0 says that there is nothing of it, 27 that there is, 28 that it cannot
be told, because something is damaged, cannot be read or cannot be resolved. KEY is an ARN, a key id, an alias, or a key material
id (64 hexadecimal digits). A data key that another CMK wraps too counts all the same: kmsfs rewrap --remove-wrapping takes the
wrapping away. Which CMK has wrapped a key is what the vault says, and for a local key store what the wrapped key itself says.
Neither is authentic: who can write the vault could hide a use.`,
		Example: `  kmsfs verify ~/vault
  kmsfs verify --no-keys --manifest vault.manifest --signer 3a1f... /backup/vault
  kmsfs verify --repair ~/vault
  kmsfs verify --key-unused 1234abcd-12ab-34cd-56ef-1234567890ab /srv/vault /mnt/backup`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, paths []string) error {
			if err := v.check(paths); err != nil {
				return err
			}
			if v.keyUnused != "" {
				return a.verifyUnused(cmd.Context(), &v, paths)
			}
			return a.verifyVaults(cmd.Context(), &v, paths)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.BoolVar(&v.noKeys, "no-keys", false, "look at the structure alone, and ask no keysource")
	f.StringVar(&v.manifest, "manifest", "", "compare with the manifest in `FILE`, - for standard input")
	f.StringVar(&v.signer, "signer", "", "public key, in `HEX`, that the manifest must be signed with")
	f.StringVar(&v.newerThan, "newer-than", "", "refuse a manifest made before `TIME` (RFC 3339, or 2026-12-31)")
	f.BoolVar(&v.repair, "repair", false, "move what is damaged into .kmsfs/damaged")
	f.StringVar(&v.keyUnused, "key-unused", "", "`KEY` that nothing is to need: ARN, key id, alias or key material id")
	f.StringVar(&v.shard, "shard", "", "`I/N`: with --key-unused, look at the I-th of N parts of the key tables only; the first has all else too")
	f.StringVar(&v.dir, "key-store", "", "`DIR` of the key store, in place of the one that each vault names")
	f.StringVar(&v.url, "keysource", "", "`URL` of the keysource, in place of the one that each vault names")
	v.secretFlags.add(f)
	v.out.add(f)
	return cmd
}

// check refuses flags that do not go together, and reads the manifest.
func (v *verifyFlags) check(paths []string) error {
	switch {
	case len(paths) == 0 && v.keyUnused != "":
		return hintf(faultf(errUsage, "PATH is missing"), "kmsfs verify --key-unused %s PATH...", quote(v.keyUnused))
	case len(paths) == 0:
		return hintf(faultf(errUsage, "PATH is missing"), "kmsfs verify PATH...")
	case v.keyUnused != "" && (v.noKeys || v.repair || v.manifest != ""):
		return hintf(faultf(errUsage, "--key-unused is a search of its own"), "leave out --no-keys, --repair and --manifest")
	case v.shard != "" && v.keyUnused == "":
		return hintf(faultf(errUsage, "--shard is for --key-unused"), "kmsfs verify --key-unused KEY --shard 1/4 PATH...")
	case v.manifest == "" && (v.signer != "" || v.newerThan != ""):
		return hintf(faultf(errUsage, "--manifest is missing"), "kmsfs verify --manifest FILE --signer HEX PATH")
	case v.repair && (v.noKeys || v.manifest != ""):
		return hintf(faultf(errUsage, "--repair needs the keys, and compares nothing"), "leave out --no-keys and --manifest")
	case v.manifest != "" && len(paths) > 1:
		return hintf(faultf(errUsage, "a manifest is of one vault"), "kmsfs verify --manifest FILE PATH")
	}
	if v.signer != "" {
		b, err := hex.DecodeString(v.signer)
		if err != nil || len(b) != ed25519.PublicKeySize {
			return hintf(faultf(errUsage, "--signer: %q is not a public key of 64 hexadecimal digits", v.signer), "kmsfs manifest prints it")
		}
		v.signed, v.noKeys = b, true
	}
	if v.manifest == "" {
		return nil
	}
	return v.readManifest()
}

// readManifest reads --manifest. Whose it is, is for later.
func (v *verifyFlags) readManifest() error {
	in := os.Stdin
	if v.manifest != "-" {
		var err error
		if in, err = os.Open(v.manifest); err != nil {
			return hintf(faultf(err, "--manifest: %w", err), "kmsfs manifest --output %s VAULT", quote(v.manifest))
		}
		defer in.Close()
	}
	m, err := manifest.Parse(in)
	if err != nil {
		return hintf(faultf(err, "the manifest %s: %w", v.manifest, err), "get it again from where it is kept")
	}
	if m.Depth != manifest.Contents {
		return hintf(faultf(errUsage, "%s is of kmsfs freshness, and tells nothing of contents", v.manifest), "kmsfs freshness check VAULT %s", quote(v.manifest))
	}
	v.want = m
	if v.newerThan == "" {
		return nil
	}
	t, err := time.Parse(time.RFC3339, v.newerThan)
	if err != nil {
		if t, err = time.Parse(time.DateOnly, v.newerThan); err != nil {
			return hintf(faultf(errUsage, "--newer-than: %q is no time", v.newerThan), "--newer-than 2026-12-31T12:00:00Z")
		}
	}
	if m.Created.Before(t) {
		return hintf(faultf(manifest.ErrSignature, "the manifest is of %s, which is before %s", stamp(m.Created), stamp(t)), "get the newest one from where it is kept")
	}
	return nil
}

// verifyVaults looks for damage in all vaults in paths.
func (a *app) verifyVaults(ctx context.Context, v *verifyFlags, paths []string) error {
	vaults, err := vaultsIn(paths)
	if err != nil {
		return err
	}
	if v.want != nil && len(vaults) != 1 {
		return hintf(faultf(errUsage, "a manifest is of one vault, and there are %d in %s", len(vaults), paths[0]), "kmsfs verify --manifest FILE PATH")
	}
	if a.env("GOGC") == "" {
		debug.SetGCPercent(gcPercent) // little is in use
	}
	out := newVerifyOutput(a, v)
	all := []verifyInfo{}
	damaged := 0
	var failed, stopped error // the first of a vault, and of one that was not wholly looked at or repaired
	for _, path := range vaults {
		info, err := a.verifyVault(ctx, v, path, out)
		if ctx.Err() != nil {
			out.clear()
			return context.Cause(ctx)
		}
		if err == nil {
			err = info.unread()
		} else {
			info.Error = oneLine(err.Error())
			if stopped == nil {
				stopped = err
			}
		}
		if failed == nil {
			failed = err
		}
		if info.damage() > 0 {
			damaged++
		}
		all = append(all, info)
		if err := out.vault(&info); err != nil {
			return err
		}
	}
	if v.out.json {
		if err := writeJSON(a.stdout, all); err != nil {
			return err
		}
	}
	switch {
	case damaged > 0 && v.repair && stopped != nil: // not all was moved
		return stopped
	case damaged > 0 && all[0].differs():
		return hintf(faultf(vault.ErrCorrupt, "%s is not as the manifest of %s has it: %d differences", all[0].Vault, all[0].Manifest.Created, all[0].damage()),
			"what was changed since is no damage; restore the rest from a backup")
	case damaged > 0:
		hint := "restore what is named from a backup; kmsfs verify --repair moves it aside"
		if v.repair {
			hint = "restore from a backup what was moved aside, if anything was"
		}
		return hintf(faultf(vault.ErrCorrupt, "there is damage in %d of %d vaults", damaged, len(vaults)), "%s", hint)
	case failed != nil:
		return failed
	}
	return nil
}

// verifyInfo is what was found in one vault.
type verifyInfo struct {
	Vault string `json:"vault"`
	Keys  bool   `json:"keys"` // it was opened with its keys
	check.Result
	Manifest    *manifestResult `json:"manifest,omitempty"`
	Mended      []string        `json:"mended,omitempty"` // key tables, by --repair
	Moved       []movedInfo     `json:"moved,omitempty"`
	Unconfirmed string          `json:"unconfirmed,omitempty"` // why findings may be changes under way
	Error       string          `json:"error,omitempty"`       // why it was not, or not wholly, looked at
	Seconds     float64         `json:"seconds"`
}

// movedInfo is what --repair has moved aside.
type movedInfo struct {
	Stored string `json:"stored"`
	To     string `json:"to"`
}

// manifestResult is how a vault is not as its manifest has it.
type manifestResult struct {
	Created     string                `json:"created"`
	Signer      string                `json:"signer"`
	Trusted     bool                  `json:"signer_known"`
	Differences []manifest.Difference `json:"differences"`
}

// damage counts what is damaged, or not as the manifest has it.
func (i *verifyInfo) damage() (n int) {
	n = len(i.Mended)
	for k := range i.Findings {
		if i.Findings[k].Damage() {
			n++
		}
	}
	if i.Manifest != nil {
		for _, d := range i.Manifest.Differences {
			if d.Change != manifest.Unread {
				n++
			}
		}
	}
	return n
}

// differs says whether what was found are differences from the manifest alone.
func (i *verifyInfo) differs() bool {
	return i.Manifest != nil && !slices.ContainsFunc(i.Findings, func(f check.Finding) bool { return f.Damage() })
}

// unread is why something could not be looked at.
func (i *verifyInfo) unread() error {
	n := 0
	var first error
	note := func(err error) {
		if n++; first == nil {
			first = err
		}
	}
	for _, f := range i.Findings {
		if !f.Damage() && f.Kind != check.Note {
			note(f.Err)
		}
	}
	if i.Manifest != nil {
		for _, d := range i.Manifest.Differences {
			if d.Change == manifest.Unread {
				note(d.Err)
			}
		}
	}
	if n == 0 {
		return nil
	}
	return hintf(faultf(first, "%d findings in %s are of what could not be looked at, such as: %w", n, i.Vault, first), "mend what is named above, and try again")
}
