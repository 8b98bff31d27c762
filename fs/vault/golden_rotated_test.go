package vault_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"kmsfs/envelope"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/rewrap"
	"kmsfs/keysource"
)

const goldenRotatedDir = "testdata/golden-v1-rotated"

// TestGoldenRotated opens the golden vault as it was after a rotation: rewrapped, with a further wrapping of each key, with an
// encryption zone, and with a file that is half reencrypted. It is never made anew.
func TestGoldenRotated(t *testing.T) {
	if os.Getenv("KMSFS_MAKE_GOLDEN") != "" {
		makeGoldenRotated(t)
	}
	dir, g, xattrs := copyGolden(t, goldenRotatedDir)
	half := func(want bool) {
		t.Helper()
		ks, at := openGolden(t, dir)
		v := openVault(t, at, ks, vault.Options{Access: vault.ReadOnly})
		defer v.Close()
		n := walkTo(t, v, "two groups")
		r, err := v.KeyInfo(n)
		if err != nil {
			t.Fatal(err)
		}
		if is := r.Wrappings[len(r.Wrappings)-1].Kind == envelope.KindPrevious; is != want || len(r.Wrappings) < 2 {
			t.Errorf("half reencrypted: %v, %d wrappings", is, len(r.Wrappings))
		}
		zone := walkTo(t, v, "zone")
		if key, err := v.Zone(zone); key != "alias/zone" || err != nil {
			t.Errorf("zone %q, %v", key, err)
		}
		inside, err := v.KeyInfo(walkTo(t, v, "zone", "file"))
		if err != nil || inside.Wrappings[0].KeyARN == r.Wrappings[0].KeyARN {
			t.Errorf("the CMK of a file in the zone is that of the vault: %v", err)
		}
	}
	half(true)
	testGolden(t, dir, g, xattrs)
	half(true)
	ks, at := openGolden(t, dir)
	v := openVault(t, at, ks, vault.Options{})
	for _, r := range v.Reencrypt(ctx, []*vault.Node{walkTo(t, v, "two groups")}, vault.ReencryptOptions{}) {
		if !r.Done || r.Err != nil {
			t.Errorf("finished: %+v", r)
		}
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	half(false)
	testGolden(t, dir, g, xattrs)
}

// makeGoldenRotated was run once, with KMSFS_MAKE_GOLDEN=1 and no goldenRotatedDir.
func makeGoldenRotated(t *testing.T) {
	if _, err := os.Stat(goldenRotatedDir); err == nil {
		t.Fatal("the golden vault is there, and is never made anew")
	}
	dir, g, xattrs := copyGolden(t, goldenDir)
	if !xattrs {
		t.Fatal("no extended attributes here")
	}
	ks, at := openGolden(t, dir)
	for _, alias := range []string{"alias/zone", "alias/also"} {
		md, err := ks.CreateKey(ctx, keysource.CreateKeyInput{})
		if err != nil {
			t.Fatal(err)
		}
		if err := ks.CreateAlias(ctx, alias, keysource.KeyRef(md.KeyID)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := rewrap.Run(ctx, at(), ks, rewrap.Options{To: "alias/also"}); err != nil {
		t.Fatal(err)
	}
	if _, err := ks.RotateKeyOnDemand(ctx, "alias/also"); err != nil {
		t.Fatal(err)
	}
	if _, err := rewrap.Run(ctx, at(), ks, rewrap.Options{Add: []keysource.KeyRef{"alias/zone"}}); err != nil {
		t.Fatal(err)
	}
	v := openVault(t, at, ks, vault.Options{})
	zone := makeSub(t, v, v.Root(), "zone")
	if err := v.SetZone(ctx, zone, "alias/zone"); err != nil {
		t.Fatal(err)
	}
	newFile(t, v, zone, "file")
	half, stop := context.WithCancel(ctx)
	for _, r := range v.Reencrypt(half, []*vault.Node{walkTo(t, v, "two groups")}, vault.ReencryptOptions{Progress: func(int64) { stop() }}) {
		if r.Err == nil {
			t.Fatal("it was not stopped half-way")
		}
	}
	stop()
	var err error
	if g.Tree, err = look(v); err != nil {
		t.Fatal(err)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if err := ks.Close(); err != nil {
		t.Fatal(err)
	}
	writeGolden(t, dir, &g)
	if err := os.CopyFS(goldenRotatedDir, os.DirFS(filepath.Clean(dir))); err != nil {
		t.Fatal(err)
	}
}
