package survey_test

import (
	"context"
	"fmt"
	"path/filepath"
	"syscall"
	"testing"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/backing/memfs"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/survey"
	"kmsfs/keysource"
	"kmsfs/keysource/local"
)

var ctx = context.Background()

// made is a vault with zones, and what is in it.
func made(t *testing.T) (top func() backing.Dir, ks *local.Store, arns map[string]string) {
	t.Helper()
	ks, err := local.Create(ctx, local.Config{Dir: filepath.Join(t.TempDir(), "store")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ks.Close() })
	arns = map[string]string{}
	for _, name := range []string{"a", "b"} {
		md, err := ks.CreateKey(ctx, keysource.CreateKeyInput{})
		if err != nil {
			t.Fatal(err)
		}
		if err := ks.CreateAlias(ctx, "alias/"+name, keysource.KeyRef(md.KeyID)); err != nil {
			t.Fatal(err)
		}
		arns[name] = md.ARN
	}
	fs := memfs.New(memfs.Config{})
	if err := vault.Create(ctx, fs.Root(), ks, vault.CreateConfig{Keysource: "local:store", Key: "alias/a"}); err != nil {
		t.Fatal(err)
	}
	v, err := vault.Open(ctx, fs.Root(), ks, vault.Options{})
	if err != nil {
		t.Fatal(err)
	}
	who := vault.Caller{Umask: 0o022}
	files := func(dir *vault.Node, n, size int) {
		for i := range n {
			f, _, err := v.Create(dir, fmt.Sprintf("file%d-%d", size, i), 0o644, who)
			if err != nil {
				t.Fatal(err)
			}
			if size > 0 {
				if _, err := v.Write(ctx, f, make([]byte, size), 0, vault.KeepPrivileges); err != nil {
					t.Fatal(err)
				}
			}
			v.Forget(f, 1)
		}
	}
	mkdir := func(dir *vault.Node, name string) *vault.Node {
		n, _, err := v.Mkdir(dir, name, 0o755, who)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	files(v.Root(), 7, 100)
	files(v.Root(), 3, 0)
	files(v.Root(), 2, 300000)
	zone := mkdir(v.Root(), "zone")
	files(zone, 4, 10)
	if err := v.SetZone(ctx, zone, "alias/b"); err != nil {
		t.Fatal(err)
	}
	files(zone, 5, 5000)
	sub := mkdir(zone, "sub")
	files(sub, 6, 1)
	n, _, err := v.Lookup(sub, "file1-0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.Link(n, v.Root(), "another name"); err != nil {
		t.Fatal(err)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	return fs.Root, ks, arns
}

// TestRun counts a small vault exactly.
func TestRun(t *testing.T) {
	top, _, arns := made(t)
	r, err := survey.Run(ctx, top(), survey.Everything)
	if err != nil {
		t.Fatal(err)
	}
	byARN := map[string]survey.Count{}
	for _, c := range r.Classes {
		if len(c.Wrappings) != 1 || c.Wrappings[0].Branch || len(c.Wrappings[0].KeyMaterialID) != 64 {
			t.Errorf("wrappings %+v", c.Wrappings)
		}
		byARN[c.Wrappings[0].KeyARN] = c.Count
	}
	// The file of two names counts in one of its zones, whichever is met first.
	if got, want := byARN[arns["a"]], (survey.Count{Records: 13, Files: 13, Bytes: 7*100 + 2*300000 + 4*10}); got != want {
		t.Errorf("under a: %+v, want %+v", got, want)
	}
	if got, want := byARN[arns["b"]], (survey.Count{Records: 11, Files: 11, Bytes: 5*5000 + 6}); got != want {
		t.Errorf("under b: %+v, want %+v", got, want)
	}
	if len(r.Zones) != 2 || r.Zones[0].Key != "alias/a" || r.Zones[1].Key != "alias/b" || r.Zones[1].Path == "" {
		t.Fatalf("zones %+v", r.Zones)
	}
	if n := r.Zones[0].Files + r.Zones[1].Files; n != 24 || r.Zones[1].Files < 14 || r.Zones[1].Files > 15 {
		t.Errorf("%d files in the zones, %d in the second", n, r.Zones[1].Files)
	}
	if r.Empty != 3 || r.Spare != 0 || r.Missing != 0 || r.Damaged != 0 || r.Unread != 0 || r.BranchKeys != 0 || len(r.Problems) != 0 {
		t.Errorf("%+v", r)
	}
	tables, err := survey.Run(ctx, top(), survey.TablesOnly)
	if err != nil || tables.Classes[0].Records+tables.Classes[1].Records != 24 || tables.Classes[0].Files != 0 {
		t.Errorf("the tables alone: %+v, %v", tables, err)
	}
}

// TestDamage has the survey tell what is damaged, and go on.
func TestDamage(t *testing.T) {
	top, _, arns := made(t)
	root := top()
	ctl, err := root.OpenDir(envelope.ControlDir)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := ctl.OpenDir("keys")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	if err := keys.ReadDir(func(e backing.Entry) bool { names = append(names, e.Name); return true }); err != nil {
		t.Fatal(err)
	}
	done := 0
	for _, name := range names {
		f, err := keys.Open(name, syscall.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 512)
		for slot := int64(1); slot < 64 && done < 3; slot++ {
			if _, err := f.ReadAt(b, slot*512); err != nil {
				t.Fatal(err)
			}
			rec, err := envelope.ParseRecord(b)
			if err != nil || rec.Wrappings[0].KeyARN != arns["a"] {
				continue
			}
			switch done {
			case 0:
				b[200] ^= 1
			case 1:
				clear(b)
			case 2: // the record of a file that there is not
				rec.ID[3] ^= 1
				if err := rec.Marshal(b); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := f.WriteAt(b, slot*512); err != nil {
				t.Fatal(err)
			}
			done++
		}
		f.Close()
	}
	junk, err := keys.Open("00000000000000ff", syscall.O_RDWR|syscall.O_CREAT, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := junk.WriteAt([]byte("no table, but some bytes that are long enough to be taken for one: "+fmt.Sprintf("%600d", 1)), 0); err != nil {
		t.Fatal(err)
	}
	odd, err := root.Open("no-stored-file", syscall.O_RDWR|syscall.O_CREAT, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := odd.WriteAt([]byte("odd"), 0); err != nil {
		t.Fatal(err)
	}
	r, err := survey.Run(ctx, root, survey.Everything)
	if err != nil {
		t.Fatal(err)
	}
	if r.Damaged != 2 || r.Missing != 3 || r.Spare != 1 || r.Unread != 1 || len(r.Problems) != 6 {
		t.Errorf("damaged %d, missing %d, spare %d, unread %d: %+v", r.Damaged, r.Missing, r.Spare, r.Unread, r.Problems)
	}
}

// TestNeverSynced: a stored file of nothing but zeros, as a power cut leaves one that was never synced, has no key and is not unread.
func TestNeverSynced(t *testing.T) {
	top, _, _ := made(t)
	before, err := survey.Run(ctx, top(), survey.Everything)
	if err != nil {
		t.Fatal(err)
	}
	f, err := top().Open("never synced", syscall.O_RDWR|syscall.O_CREAT, 0o600)
	if err == nil {
		err = f.Truncate(100_000)
	}
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	after, err := survey.Run(ctx, top(), survey.Everything)
	if err != nil || after.Empty != before.Empty+1 || after.Unread != before.Unread || after.Missing != before.Missing {
		t.Errorf("got %+v, before %+v, %v", after, before, err)
	}
	if _, keyed, err := survey.File(top(), "never synced"); keyed || err != nil {
		t.Errorf("got %v, %v", keyed, err)
	}
}
