package rewrap_test

import (
	"strings"
	"testing"

	"kmsfs/fs/vault"
	"kmsfs/fs/vault/rewrap"
	"kmsfs/fs/vault/sidecar"
	"kmsfs/keysource"
)

// TestZones: each file comes under the CMK of its zone, also one that was moved between zones, without the volume key.
func TestZones(t *testing.T) {
	w := newWorld(t, 30) // records of no file
	ctx := t.Context()
	base, outer, inner := w.config().Wrappings[0].KeyARN, w.newCMK(), w.newCMK()
	v, err := vault.Open(ctx, w.fs.Root(), w.ks.Store, vault.Options{})
	w.must(err)
	at := func(path string) *vault.Node {
		n := v.Root()
		for part := range strings.SplitSeq(path, "/") {
			if part == "" {
				continue
			}
			next, _, err := v.Lookup(n, part)
			w.must(err)
			n = next
		}
		return n
	}
	mkdir := func(dir, name, zone string) {
		n, _, err := v.Mkdir(at(dir), name, 0o700, vault.Caller{})
		w.must(err)
		if zone != "" {
			w.must(v.SetZone(ctx, n, zone))
		}
	}
	mkdir("", "out", outer)
	mkdir("out", "plain", "")
	mkdir("out", "in", inner)
	mkdir("", "other", "")
	want := map[string]string{"": base, "out": outer, "out/plain": outer, "out/in": inner, "other": base}
	for dir := range want {
		n, _, err := v.Create(at(dir), "file", 0o600, vault.Caller{})
		w.must(err)
		_, err = v.Write(ctx, n, []byte(dir+"!"), 0, vault.KeepPrivileges)
		w.must(err)
	}
	check := func() {
		t.Helper()
		for dir, arn := range want {
			r, err := v.KeyInfo(at(dir + "/file"))
			if err != nil || r.Wrappings[0].KeyARN != arn {
				t.Errorf("the file in %q is under %v, and not %s: %v", dir, r, arn, err)
			}
		}
	}
	check()
	w.must(v.Flush())
	w.ks.before = func(op string, _ int64) error {
		if op == "Decrypt" {
			return keysource.NewError(op, "", keysource.CodeAccessDenied, "no")
		}
		return nil
	}
	if s, err := w.run(ctx, rewrap.Options{}); err != nil || s.Behind != 0 || s.Calls != 0 {
		t.Errorf("all is current: %+v, %v", s, err)
	}
	check()
	w.must(v.Rename(at("out/in"), "file", v.Root(), "moved", 0))
	w.must(v.Rename(at("other"), "file", at("out/in"), "file", 0))
	w.must(v.Rename(v.Root(), "moved", at("other"), "file", 0))
	w.must(v.Flush())
	if s, err := w.run(ctx, rewrap.Options{}); err != nil || s.Rewrapped != 2 {
		t.Errorf("two are out of zone: %+v, %v", s, err)
	}
	check()
	next := w.newCMK()
	w.must(w.ks.UpdateAlias(ctx, alias, keysource.KeyRef(next)))
	want[""], want["other"] = next, next
	if s, err := w.run(ctx, rewrap.Options{}); err != nil || s.Rewrapped < 2 {
		t.Errorf("the alias has moved: %+v, %v", s, err)
	}
	check()
	w.ks.before = nil
	w.must(v.Close())
	all := map[string]int{}
	ctl, sc := w.sidecar()
	defer ctl.Close()
	defer sc.Close()
	w.must(sc.Scan(ctx, sidecar.ScanOptions{}, func(p *sidecar.Part) error {
		for e := range p.Entries() {
			all[e.Record.Wrappings[0].KeyARN]++
		}
		return p.Err
	}))
	if all[base] > 0 || all[outer] != 2 || all[inner] != 1 || all[next] < 32 {
		t.Errorf("records by CMK: %v; first %s, zones %s %s, now %s", all, base, outer, inner, next)
	}
}
