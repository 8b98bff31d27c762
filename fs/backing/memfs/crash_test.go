package memfs_test

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
	"kmsfs/fs/backing/memfs"
)

// put makes name a file with this content, and leaves it open.
func put(t *testing.T, d backing.Dir, name, content string) backing.File {
	t.Helper()
	f, err := d.Open(name, unix.O_RDWR|unix.O_CREAT, 0o600)
	must(t, err)
	_, err = f.WriteAt([]byte(content), 0)
	must(t, err)
	return f
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mkdir(t *testing.T, d backing.Dir, name string) backing.Dir {
	t.Helper()
	must(t, d.Mkdir(name, 0o700))
	sub, err := d.OpenDir(name)
	must(t, err)
	return sub
}

// look describes the tree below d shortly: names, and the contents of files.
func look(t *testing.T, d backing.Dir) string {
	t.Helper()
	var s []string
	must(t, d.ReadDir(func(e backing.Entry) bool {
		if e.Kind == unix.S_IFDIR {
			sub, err := d.OpenDir(e.Name)
			must(t, err)
			s = append(s, e.Name+"("+look(t, sub)+")")
			return true
		}
		f, err := d.Open(e.Name, unix.O_RDONLY, 0)
		must(t, err)
		b := make([]byte, 1<<16)
		n, err := f.ReadAt(b, 0)
		must(t, err)
		s = append(s, e.Name+"="+string(b[:n]))
		return true
	}))
	return strings.Join(s, " ")
}

// outcomes returns all that look can say after a crash, sorted.
func outcomes(t *testing.T, fs *memfs.FS, p memfs.Policy) []string {
	t.Helper()
	seen := map[string]bool{}
	n := 0
	for e := new(memfs.Enumerator); e.Next(); n++ {
		if n > 100000 {
			t.Fatal("no end of outcomes")
		}
		p.Choose = e.Choose
		seen[look(t, fs.Crash(p).Root())] = true
	}
	return slices.Sorted(maps.Keys(seen))
}

func wantOutcomes(t *testing.T, fs *memfs.FS, p memfs.Policy, want ...string) {
	t.Helper()
	got := outcomes(t, fs, p)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("names %d: got outcomes\n%q\nwant\n%q", p.Names, got, want)
	}
}

var orders = []memfs.Names{memfs.InOrder, memfs.PerDirectory, memfs.Unordered}

func TestCrashNames(t *testing.T) {
	rows := []struct {
		name                 string
		run                  func(d, sub backing.Dir) // root and its directory s, both durable and empty
		inOrder, perDir, any []string
	}{
		{"two creates in one directory", func(d, sub backing.Dir) {
			must(t, sub.Mkdir("a", 0))
			must(t, sub.Mkdir("b", 0))
		}, []string{"s()", "s(a())", "s(a() b())"}, []string{"s()", "s(a())", "s(a() b())"}, []string{"s()", "s(a())", "s(b())", "s(a() b())"}},
		{"creates in two directories", func(d, sub backing.Dir) {
			must(t, sub.Mkdir("a", 0))
			must(t, d.Mkdir("b", 0))
		}, []string{"s()", "s(a())", "b() s(a())"}, []string{"s()", "s(a())", "b() s()", "b() s(a())"}, []string{"s()", "s(a())", "b() s()", "b() s(a())"}},
		{"a rename is whole", func(d, sub backing.Dir) {
			must(t, d.Mkdir("a", 0))
			must(t, d.Sync())
			must(t, d.Rename("a", sub, "b", 0))
		}, []string{"a() s()", "s(b())"}, []string{"a() s()", "s(b())"}, []string{"a() s()", "s(b())"}},
		{"no name goes before its other", func(d, sub backing.Dir) {
			put(t, d, "a", "")
			must(t, d.Sync())
			must(t, d.Link("a", sub, "b"))
			must(t, d.Unlink("a"))
		}, []string{"a= s()", "a= s(b=)", "s(b=)"}, []string{"a= s()", "a= s(b=)", "s(b=)"}, []string{"a= s()", "a= s(b=)", "s(b=)"}},
		{"no directory goes before its content", func(d, sub backing.Dir) {
			put(t, sub, "a", "")
			must(t, sub.Sync())
			must(t, sub.Rename("a", d, "b", 0))
			must(t, d.Rmdir("s"))
		}, []string{"s(a=)", "b= s()", "b="}, []string{"s(a=)", "b= s()", "b="}, []string{"s(a=)", "b= s()", "b="}},
		{"a sync holds", func(d, sub backing.Dir) {
			must(t, sub.Mkdir("a", 0))
			must(t, d.Mkdir("b", 0))
			must(t, d.Sync())
		}, []string{"b() s(a())"}, []string{"b() s()", "b() s(a())"}, []string{"b() s()", "b() s(a())"}},
		{"what is synced in a lost directory is lost", func(d, sub backing.Dir) {
			x := mkdir(t, d, "x")
			must(t, x.Mkdir("y", 0))
			must(t, x.Sync())
		}, []string{"s() x(y())"}, []string{"s()", "s() x(y())"}, []string{"s()", "s() x(y())"}},
		{"the same name again", func(d, sub backing.Dir) {
			must(t, d.Mkdir("a", 0))
			must(t, d.Rmdir("a"))
			must(t, d.Mkdir("a", 0))
		}, []string{"s()", "a() s()"}, []string{"s()", "a() s()"}, []string{"s()", "a() s()"}},
		{"syncfs", func(d, sub backing.Dir) {
			must(t, d.Mkdir("a", 0))
			must(t, sub.Mkdir("b", 0))
			must(t, d.SyncFS())
		}, []string{"a() s(b())"}, []string{"a() s(b())"}, []string{"a() s(b())"}},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			fs := memfs.New(memfs.Config{})
			d := fs.Root()
			sub := mkdir(t, d, "s")
			must(t, d.SyncFS())
			r.run(d, sub)
			for i, want := range [][]string{r.inOrder, r.perDir, r.any} {
				wantOutcomes(t, fs, memfs.Policy{Names: orders[i]}, want...)
				wantOutcomes(t, fs.Kill(), memfs.Policy{Names: orders[i]}, want...)
			}
		})
	}
}

// The way to replace a file that must not be lost: write aside, sync, rename.
func TestCrashReplace(t *testing.T) {
	for _, names := range orders {
		fs := memfs.New(memfs.Config{})
		d := fs.Root()
		must(t, put(t, d, "f", "old").Sync())
		must(t, d.Sync())
		tmp := put(t, d, "t", "new")
		must(t, tmp.Sync())
		must(t, d.Rename("t", d, "f", 0))
		for _, got := range outcomes(t, fs, memfs.Policy{Names: names}) {
			if !slices.Contains([]string{"f=old", "f=old t=new", "f=new"}, got) {
				t.Errorf("names %d: %q", names, got)
			}
		}
		must(t, d.Sync())
		wantOutcomes(t, fs, memfs.Policy{Names: names}, "f=new")
	}
}

func TestCrashData(t *testing.T) {
	fs := memfs.New(memfs.Config{})
	d := fs.Root()
	f := put(t, d, "f", "one")
	must(t, d.Sync())
	// Nothing of the file is durable but its name: size and content are each there or not.
	wantOutcomes(t, fs, memfs.Policy{}, "f=", "f=\x00\x00\x00", "f=one")
	must(t, f.DataSync())
	wantOutcomes(t, fs, memfs.Policy{}, "f=one")
	for _, s := range []string{"two", "six"} {
		_, err := f.WriteAt([]byte(s), 0)
		must(t, err)
	}
	wantOutcomes(t, fs, memfs.Policy{}, "f=one", "f=two", "f=six")
	must(t, f.Truncate(1))
	wantOutcomes(t, fs, memfs.Policy{}, "f=one", "f=two", "f=six", "f=s\x00\x00", "f=o", "f=t", "f=s")
	must(t, f.Sync())
	wantOutcomes(t, fs, memfs.Policy{}, "f=s")
	must(t, f.Allocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096))
	wantOutcomes(t, fs, memfs.Policy{}, "f=s", "f=\x00")

	sync, err := d.Open("f", unix.O_WRONLY|unix.O_DSYNC, 0)
	must(t, err)
	_, err = sync.WriteAt([]byte("now"), 0)
	must(t, err)
	wantOutcomes(t, fs, memfs.Policy{}, "f=now")
}

func TestCrashTears(t *testing.T) {
	fs := memfs.New(memfs.Config{})
	d := fs.Root()
	f := put(t, d, "f", strings.Repeat("o", 2*4096))
	must(t, d.SyncFS())
	_, err := f.WriteAt(bytes.Repeat([]byte("n"), 512+4096), 4096-512)
	must(t, err)
	for _, c := range []struct {
		sectors bool
		want    int
	}{
		{false, 1 << 2},      // two pages
		{true, 1 << (1 + 8)}, // one sector of the first page, eight of the second
	} {
		got := map[string]bool{}
		for e := new(memfs.Enumerator); e.Next(); {
			g, err := fs.Crash(memfs.Policy{Sectors: c.sectors, Choose: e.Choose}).Root().Open("f", unix.O_RDONLY, 0)
			must(t, err)
			b := make([]byte, 2*4096)
			n, err := g.ReadAt(b, 0)
			must(t, err)
			if n != len(b) {
				t.Fatalf("size %d", n)
			}
			got[string(b)] = true
			for i, x := range b {
				if x != 'o' && (x != 'n' || i < 4096-512) {
					t.Fatalf("byte %d is %q", i, x)
				}
			}
		}
		if len(got) != c.want {
			t.Errorf("sectors %v: got %d outcomes, want %d", c.sectors, len(got), c.want)
		}
	}
}

func TestCrashMeta(t *testing.T) {
	fs := memfs.New(memfs.Config{})
	d := fs.Root()
	f := put(t, d, "f", "")
	must(t, d.Sync())
	must(t, f.Chmod(0o640))
	must(t, f.Setxattr("user.a", []byte("v"), 0))
	seen := func() (s []string) {
		for e := new(memfs.Enumerator); e.Next(); {
			d := fs.Crash(memfs.Policy{Choose: e.Choose}).Root()
			st, err := d.StatAt("f")
			must(t, err)
			n, _ := d.GetxattrAt("f", "user.a", nil)
			s = append(s, fmt.Sprintf("%o %d", st.Mode&0o777, n))
		}
		slices.Sort(s)
		return slices.Compact(s)
	}
	if got := strings.Join(seen(), ", "); got != "600 0, 640 0, 640 1" {
		t.Errorf("before sync: %s", got)
	}
	must(t, f.DataSync())
	if got := strings.Join(seen(), ", "); got != "600 0, 640 0, 640 1" {
		t.Errorf("after datasync: %s", got)
	}
	must(t, f.Sync())
	if got := strings.Join(seen(), ", "); got != "640 1" {
		t.Errorf("after sync: %s", got)
	}
}
