package main

import (
	"context"
	"errors"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"kmsfs/envelope"
	"kmsfs/fs/vault"
	"kmsfs/keysource"
)

// reencryptFlags are the flags of reencrypt; of those of rewrap it has the ones that find the vault.
type reencryptFlags struct {
	rewrapFlags
	before time.Time
	when   string
	older  string
	dryRun bool
}

// addFlags defines the flags.
func (r *reencryptFlags) addFlags(f *pflag.FlagSet) {
	f.SortFlags = false
	f.StringVar(&r.only, "only", "", "only the files at and below `PATH`, on a mount or from the root of the vault")
	f.StringVar(&r.when, "created-before", "", "only files whose data key was made before `TIME`, as 2026-01-02T03:04:05Z (default: the start of this run)")
	f.StringVar(&r.older, "older-than", "", "only files whose data key is older than that `TIME`, as 720h")
	f.StringVar(&r.from, "from", "", "only files whose data key is under this `CMK`, an alias, ARN or id, or key material id")
	f.BoolVar(&r.dryRun, "dry-run", false, "count files and bytes; change nothing")
	r.addOverrides(f)
	f.BoolVar(&r.out.json, "json", false, "print JSON lines, also on a terminal")
}

// reencryptCommand is kmsfs reencrypt.
func (a *app) reencryptCommand() *cobra.Command {
	var r reencryptFlags
	cmd := &cobra.Command{
		Use:   "reencrypt VAULT|MOUNTPOINT",
		Short: "Give files new data keys",
		Long: `Give the files of a vault new data keys, in place: all that is stored of them is encrypted anew. That is for data keys that may
be known to somebody; to move to another CMK or its new key material, kmsfs rewrap does with a thousandth of the work. Where the
vault is mounted here, the daemon of the mount does it, and files are read and written meanwhile; it must not be mounted with
--shared or read-only, or elsewhere.

It may be interrupted at any moment, also by a power cut: files read as before, and the next run goes on. What a run has done
the next one leaves alone if it is given the time that the first began, which each prints: --created-before TIME. Times, modes,
owners, attributes, holes and hard links stay. It needs little space. Take backups before or after it, not meanwhile; what is
in older backups, snapshots and in blocks that the disk has given up stays under the old keys. Backup tools that go by size and time,
as rsync and rclone do, see no change: run them once with --checksum.

On a terminal there is a progress bar, elsewhere JSON lines.`,
		Example: `  kmsfs reencrypt --dry-run ~/vault
  kmsfs reencrypt --only projects/secret ~/vault
  kmsfs reencrypt --older-than 8760h /srv/vault`,
		Args: args("VAULT|MOUNTPOINT"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.reencrypt(cmd.Context(), &r, args[0]) },
	}
	r.addFlags(cmd.Flags())
	return cmd
}

// finish completes the options from the flags.
func (r *reencryptFlags) finish(now time.Time) error {
	r.before = now
	switch {
	case r.when != "" && r.older != "":
		return faultf(errUsage, "--created-before and --older-than say the same: give one")
	case r.when != "":
		t, err := time.Parse(time.RFC3339Nano, r.when)
		if err != nil {
			return hintf(faultf(errUsage, "--created-before: %q is not a time", r.when), "--created-before 2026-01-02T03:04:05Z")
		}
		r.before = t
	case r.older != "":
		d, err := time.ParseDuration(r.older)
		if err != nil || d < 0 {
			return hintf(faultf(errUsage, "--older-than: %q is not a time", r.older), "--older-than 720h")
		}
		r.before = now.Add(-d)
	}
	if _, err := keysource.KeyRef(r.from).Parse(); err != nil && r.from != "" && !keysource.IsKeyMaterialID(r.from) {
		return faultf(errUsage, "%w", err)
	}
	return nil
}

// reencrypt does it.
func (a *app) reencrypt(ctx context.Context, r *reencryptFlags, path string) error {
	if err := r.finish(time.Now()); err != nil {
		return err
	}
	p, err := r.vaultPlan(path)
	if err != nil {
		return err
	}
	r.only = onlyPath(p.Vault, r.only)
	out := newReencryptOutput(a, r)
	if m := mountsOf(p.Vault); len(m) > 0 {
		err = a.reencryptMounted(ctx, mountNamed(m, path), r.request(), out)
	} else {
		err = a.reencryptUnmounted(ctx, r, p, out)
	}
	if errors.Is(err, errBeforeRun) {
		return err
	}
	if e := out.finish(err); err == nil {
		err = e
	}
	if !r.dryRun && (errors.Is(err, context.Canceled) || errors.Is(err, vault.ErrUnfinished)) {
		err = hintf(err, "kmsfs reencrypt --created-before %s %s goes on where this run ended", r.before.UTC().Format(time.RFC3339Nano), quote(p.Vault))
	}
	return err
}

// mountNamed is the one of mounts that is on path, else the first that may write, else the first.
func mountNamed(mounts []mountEntry, path string) mountEntry {
	if real, err := resolve(path); err == nil {
		for _, m := range mounts {
			if m.Mountpoint == real {
				return m
			}
		}
	}
	for _, m := range mounts {
		if _, ro := m.has("ro"); !ro {
			return m
		}
	}
	return mounts[0]
}

// errBeforeRun marks an error of before anything was looked at: there is no summary then.
var errBeforeRun = errors.New("nothing was looked at")

// beforeRun marks err.
func beforeRun(err error) error {
	if err == nil {
		return nil
	}
	return notRun{err}
}

type notRun struct{ error }

func (n notRun) Unwrap() []error { return []error{n.error, errBeforeRun} }

// reencryptUnmounted opens the vault, alone, and goes through it.
func (a *app) reencryptUnmounted(ctx context.Context, r *reencryptFlags, p mountPlan, out *reencryptOutput) error {
	keys, err := a.openKeys(ctx, &r.storeFlags, p)
	if err != nil {
		return beforeRun(err)
	}
	from, err := chooser(ctx, keys, r.from)
	if err != nil {
		keys.Close()
		return beforeRun(explain(err, p))
	}
	access := vault.ReadWrite
	if r.dryRun {
		access = vault.ReadOnly
	}
	v, err := openWith(ctx, p, keys, access)
	if err != nil {
		keys.Close()
	}
	if errors.Is(err, vault.ErrLocked) {
		return beforeRun(hintf(faultf(err, "the vault %s is mounted elsewhere: %w", p.Vault, err), "kmsfs umount MOUNTPOINT there, then kmsfs reencrypt %s", quote(p.Vault)))
	}
	if err != nil {
		return beforeRun(err)
	}
	run := &reencryption{v: v.Vault, file: out.file,
		o: vault.ReencryptOptions{Before: r.before, From: from, DryRun: r.dryRun, Progress: out.progress}}
	err = run.all(ctx, r.only)
	if e := v.close(); err == nil && e != nil {
		err = e
	}
	return err
}

// chooser returns what tells the records under a CMK or key material; nil where none is named.
func chooser(ctx context.Context, ks keysource.Keysource, key string) (func(*envelope.Record) bool, error) {
	if key == "" {
		return nil, nil
	}
	arn := ""
	if !keysource.IsKeyMaterialID(key) {
		m, err := ks.DescribeKey(ctx, keysource.KeyRef(key))
		if err != nil {
			return nil, err
		}
		arn = m.ARN
	}
	return func(rec *envelope.Record) bool {
		for _, w := range rec.Wrappings {
			if w.Kind == envelope.KindKeysource && (w.KeyARN == arn || w.KeyMaterialID == key) {
				return true
			}
		}
		return false
	}, nil
}

// reencryption is a run over the files of a vault.
type reencryption struct {
	v    *vault.Vault
	o    vault.ReencryptOptions
	file func(vault.Reencrypted) // told of each file, by several goroutines

	failed atomic.Int64
	batch  []*vault.Node // of small files
	work   chan []*vault.Node
}

// reencryptBatch is how many files get their records together.
const reencryptBatch = 128

// all goes through the files at and below path.
func (r *reencryption) all(ctx context.Context, path string) error {
	if !r.o.DryRun {
		r.v.Purge() // keys made ahead are not to be those of files that come later
	}
	r.work = make(chan []*vault.Node)
	var wg sync.WaitGroup
	for range max(runtime.NumCPU(), 2) {
		wg.Go(func() {
			for nodes := range r.work {
				if ctx.Err() == nil {
					for i, f := range r.v.Reencrypt(ctx, nodes, r.o) {
						if f.Err != nil && r.gone(nodes[i]) {
							continue
						}
						if f.Err != nil {
							r.failed.Add(1)
						}
						r.file(f)
					}
				}
				for _, n := range nodes {
					r.v.Forget(n, 1)
				}
			}
		})
	}
	err := r.from(ctx, path)
	if len(r.batch) > 0 {
		r.work <- r.batch
	}
	close(r.work)
	wg.Wait()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return err
	case r.failed.Load() > 0:
		return faultf(vault.ErrUnfinished, "%d files were not reencrypted, or not wholly; they read as before", r.failed.Load())
	}
	return nil
}

// from finds path, and goes through what is below it.
func (r *reencryption) from(ctx context.Context, path string) error {
	n := r.v.Root()
	for part := range strings.SplitSeq(filepath.Clean("/" + path)[1:], "/") {
		if part == "" {
			continue
		}
		next, _, err := r.v.Lookup(n, part)
		if n != r.v.Root() {
			r.v.Forget(n, 1)
		}
		if err != nil {
			return hintf(faultf(err, "--only %s: %w", path, err), "name a file or directory on a mount of the vault, or its path from the root of the vault")
		}
		n = next
	}
	return r.walk(ctx, n)
}

// trouble counts what cannot be looked at.
func (r *reencryption) trouble(err error) {
	r.failed.Add(1)
	r.file(vault.Reencrypted{Err: err})
}

// walk goes through n, of which it has a reference to give up, and what is below.
func (r *reencryption) walk(ctx context.Context, n *vault.Node) error {
	if n.Kind() == syscall.S_IFREG {
		r.batch = append(r.batch, n)
		if len(r.batch) >= reencryptBatch {
			select {
			case r.work <- r.batch:
				r.batch = nil
			case <-ctx.Done():
			}
		}
		return ctx.Err()
	}
	if n != r.v.Root() {
		defer r.v.Forget(n, 1)
	}
	if n.Kind() != syscall.S_IFDIR || ctx.Err() != nil {
		return ctx.Err()
	}
	var entries []vault.DirEntry
	if err := r.v.ReadDir(n, func(e vault.DirEntry) bool {
		entries = append(entries, e)
		return true
	}); err != nil {
		if !r.gone(n) {
			r.trouble(err)
		}
		return ctx.Err()
	}
	for _, e := range entries {
		if e.Kind != 0 && e.Kind != syscall.S_IFREG && e.Kind != syscall.S_IFDIR {
			continue
		}
		child, _, err := r.v.LookupStored(n, e.Stored)
		if err != nil {
			if !errors.Is(err, syscall.ENOENT) && !r.gone(n) {
				r.trouble(err)
			}
			continue
		}
		if err := r.walk(ctx, child); err != nil {
			return err
		}
	}
	return nil
}

// gone says whether n has been deleted since it was found. What fails of it then is no matter.
func (r *reencryption) gone(n *vault.Node) bool {
	st, err := r.v.Attr(n)
	return errors.Is(err, vault.ErrStale) || errors.Is(err, syscall.ENOENT) || err == nil && st.Nlink == 0
}
