package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/rewrap"
	"kmsfs/keysource"
	"kmsfs/keysource/passphrase"
)

// rewrapFlags are the flags of rewrap.
type rewrapFlags struct {
	storeFlags
	out         outputFlags
	to, from    string
	only, shard string
	add, remove []string
	auditLog    string
	price       float64
	o           rewrap.Options
}

// addFlags defines the flags.
func (r *rewrapFlags) addFlags(f *pflag.FlagSet) {
	f.SortFlags = false
	f.StringVar(&r.to, "to", "", "`CMK` to move to, an alias, ARN or id (default: that of the vault)")
	f.StringVar(&r.from, "from", "", "rewrap only what is under this `CMK`, an alias, ARN or id, or key material id")
	f.StringVar(&r.only, "only", "", "rewrap only the files at and below `PATH`, on a mount or from the root of the vault; needs kms:Decrypt")
	f.StringArrayVar(&r.add, "add-wrapping", nil, "give each key a further wrapping of this `CMK`; may be given several times")
	f.StringArrayVar(&r.remove, "remove-wrapping", nil, "take the wrapping of this `CMK` from each key; may be given several times")
	f.BoolVar(&r.o.DryRun, "dry-run", false, "count what would be done, the calls, what they cost and how long they take; change nothing")
	f.BoolVar(&r.o.Force, "force", false, "rewrap also what is current")
	f.BoolVar(&r.o.Verify, "verify", false, "decrypt each new wrapping before the old one is given up; needs kms:Decrypt")
	f.IntVar(&r.o.Concurrency, "concurrency", 0, "`N` calls at once (default 32, for a local key store the number of processors)")
	f.Float64Var(&r.o.RPS, "rps", 0, "at most `N` calls a second")
	f.IntVar(&r.o.MaxErrors, "max-errors", 100, "give up after `N` keys that could not be rewrapped")
	f.StringVar(&r.shard, "shard", "", "`I/N`: work on the I-th of N parts of the key tables only; the first has the volume key too")
	f.StringVar(&r.auditLog, "audit-log", "", "append a JSON line for each key to `FILE`")
	f.Float64Var(&r.price, "price-per-10k", 0.03, "what 10000 calls cost, in `USD`, for --dry-run")
	r.addOverrides(f)
	f.BoolVar(&r.out.json, "json", false, "print JSON lines, also on a terminal")
}

// rewrapCommand is kmsfs rewrap.
func (a *app) rewrapCommand() *cobra.Command {
	var r rewrapFlags
	cmd := &cobra.Command{
		Use:   "rewrap VAULT|MOUNTPOINT",
		Short: "Move the keys of a vault to another CMK or to its new key material",
		Long: `Give the data keys of a vault new wrappings, by the CMK's current key material or by another CMK. The data keys stay, and no
file is touched. It may be mounted meanwhile, here and on other hosts. The keysource does it by ReEncrypt: no key comes here in
plaintext, and neither kms:Decrypt nor kms:Encrypt is needed, but for --only, --verify, and for --to, which also gives new files
that CMK.

Files in an encryption zone come under the CMK of the zone, all others under that of the vault; with --to all under that CMK.

With --shard, run all shards, on as many machines as there are, and then kmsfs rewrap VAULT once more without it: that does what
belongs to no shard, and what files were made meanwhile.

What was done is saved every 5 seconds, and when it is interrupted; the next run does the rest, and one after that nothing. A key
that cannot be rewrapped stays as it is, and the exit code says so. While the keysource throttles it is asked less often.

On a terminal there is a progress bar, elsewhere JSON lines.`,
		Example: `  kmsfs key rotate alias/files && kmsfs rewrap ~/vault
  kmsfs rewrap --to alias/new --dry-run ~/vault
  kmsfs rewrap --shard 1/4 --rps 500 --audit-log rewrap.jsonl /srv/vault`,
		Args: args("VAULT"),
		RunE: func(cmd *cobra.Command, args []string) error { return a.rewrap(cmd.Context(), &r, args[0]) },
	}
	r.addFlags(cmd.Flags())
	return cmd
}

// finish completes the options from the flags.
func (r *rewrapFlags) finish() error {
	r.o.To, r.o.From = keysource.KeyRef(r.to), r.from
	refs := []string{r.to}
	for _, list := range []struct {
		names []string
		keys  *[]keysource.KeyRef
	}{{r.add, &r.o.Add}, {r.remove, &r.o.Remove}} {
		for _, name := range list.names {
			*list.keys = append(*list.keys, keysource.KeyRef(name))
			refs = append(refs, name)
		}
	}
	for _, name := range refs {
		if _, err := keysource.KeyRef(name).Parse(); err != nil && name != "" {
			return faultf(errUsage, "%w", err)
		}
	}
	if r.o.Concurrency < 0 || r.o.Concurrency > 10000 || r.o.RPS < 0 || r.o.MaxErrors < 1 || r.price < 0 {
		return faultf(errUsage, "--concurrency is 1 to 10000, --max-errors at least 1, --rps and --price-per-10k not negative")
	}
	o, err := parseShard(r.shard)
	if err != nil {
		return err
	}
	r.o.Shard, r.o.Shards = o.Shard, o.Shards
	return nil
}

// rewrap does it.
func (a *app) rewrap(ctx context.Context, r *rewrapFlags, path string) error {
	if err := r.finish(); err != nil {
		return err
	}
	p, err := r.vaultPlan(path)
	if err != nil {
		return err
	}
	secret, _, err := r.source(a)
	if err != nil {
		return err
	}
	secret, forget := remembered(secret)
	defer forget()
	ks, u, err := rewrapChain(ctx, p, secret, r.o)
	if err != nil {
		return explain(err, p)
	}
	defer ks.Close()
	if r.o.Concurrency == 0 && u.Scheme == keysource.SchemeLocal {
		r.o.Concurrency = runtime.NumCPU()
	}
	if r.only != "" {
		ids, err := r.subtree(ctx, p, ks)
		if err != nil {
			return explain(err, p)
		}
		r.o.Only = func(_ envelope.Locator, id envelope.FileID) bool { return ids[id] }
	}
	top, err := backing.OpenDir(p.Vault)
	if err != nil {
		return explain(err, p)
	}
	defer top.Close()
	if a.env("GOGC") == "" {
		debug.SetGCPercent(gcPercent) // little is in use
	}
	out, err := newRewrapOutput(a, r)
	if err != nil {
		return err
	}
	r.o.Progress, r.o.Audit = out.progress, out.event
	s, err := rewrap.Run(ctx, top, ks, r.o)
	if e := out.finish(s, err); err == nil {
		err = e
	}
	return r.explain(err, p)
}

// rewrapChain is the chain of rewrap: the keysource that the vault names, and branch keys over it, which are moved as a whole.
// Failed calls are tried again by rewrap itself. The cache below the branch keys keeps nothing to speak of, unless new wrappings
// are verified.
func rewrapChain(ctx context.Context, p mountPlan, secret passphrase.Source, o rewrap.Options) (keysource.Keysource, keysource.URL, error) {
	u, err := keysource.ParseURL(p.Keysource)
	if err != nil {
		return nil, u, err
	}
	ks, err := openKeysource(ctx, p, p.Keysource, secret, nil)
	if err != nil {
		return nil, u, err
	}
	cfg := keysource.CacheConfig{MaxAge: time.Nanosecond, MaxCount: 1, Grace: -1, RefusalAge: -1}
	if o.Verify {
		cfg.MaxAge, cfg.MaxCount = time.Minute, 1024 // a branch key is decrypted once, and not for each of its keys
	}
	cache := keysource.NewCache(ks, cfg)
	b, err := keysource.NewBranch(cache, keysource.DefaultBranchLimits(), nil)
	if err != nil {
		cache.Close()
		return nil, u, err
	}
	return b, u, nil
}

// onlyPath is a path on a mount of a vault, or from its root, as one from its root.
func onlyPath(vault, path string) string {
	if path == "" {
		return path
	}
	if real, err := resolve(path); err == nil {
		for _, m := range mountsOf(vault) {
			if rel, err := filepath.Rel(m.Mountpoint, real); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
				path = rel
			}
		}
	}
	return path
}

// subtree finds the files of --only: a path on the mount of the vault, or from its root.
func (r *rewrapFlags) subtree(ctx context.Context, p mountPlan, ks keysource.Keysource) (map[envelope.FileID]bool, error) {
	path := onlyPath(p.Vault, r.only)
	top, err := backing.OpenDir(p.Vault)
	if err != nil {
		return nil, err
	}
	v, err := vault.Open(ctx, top, retried{keysource.NewRetry(ks, keysource.RetryConfig{})}, vault.Options{Access: vault.ReadOnly})
	if err != nil {
		return nil, err
	}
	ids, err := rewrap.Subtree(ctx, v, filepath.Clean("/" + path)[1:])
	if err != nil {
		err = hintf(faultf(err, "--only %s: %w", r.only, err), "name a file or directory on a mount of the vault, or its path from the root of the vault")
	}
	return ids, errors.Join(err, v.Close())
}

// retried is a keysource that another closes.
type retried struct{ keysource.Keysource }

func (retried) Close() error { return nil }

// explain says what to do about the errors of rewrap.
func (r *rewrapFlags) explain(err error, p mountPlan) error {
	v := quote(p.Vault)
	switch {
	case err == nil || errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, rewrap.ErrKeyKept):
		return hintf(faultf(err, "all keys were rewrapped, but new files still get the CMK of before: %w", err),
			"as somebody who may kms:Decrypt: kmsfs rewrap --to %s %s", quote(r.to), v)
	case errors.Is(err, rewrap.ErrIncomplete):
		return hintf(err, "kmsfs rewrap %s again, when the cause is gone: it does what is left", v)
	}
	return explain(fmt.Errorf("%w", err), p)
}
