package vault_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/backing/faults"
	"kmsfs/fs/backing/memfs"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/check"
)

// breakage is a way in which a disk fails, from the nth call on that it concerns.
type breakage struct {
	name   string
	err    syscall.Errno
	hits   func(faults.Op) bool
	held   bool  // all calls from then on, not only one
	part   int64 // of a write: done first; below 0: up to the next page
	at     int64
	seen   atomic.Int64
	failed atomic.Int64
	on     atomic.Bool
}

// breakages are what disks do. What they do to one call only, they do in the middle of a write too.
func breakages() []*breakage {
	any := func(faults.Op) bool { return true }
	return []*breakage{
		{name: "one error", err: syscall.EIO, hits: any},
		{name: "a full disk, within a page", err: syscall.ENOSPC, hits: takesSpace, part: 3 * envelope.SectorSize},
		{name: "a full disk, for long", err: syscall.ENOSPC, hits: takesSpace, part: -1, held: true},
		{name: "a quota", err: syscall.EDQUOT, hits: takesSpace, held: true},
		{name: "a disk that is gone", err: syscall.EIO, hits: any, held: true},
		{name: "a disk remounted read-only", err: syscall.EROFS, hits: changesDisk, held: true},
		{name: "an error of a sync", err: syscall.EIO, hits: syncs},
		{name: "errors of all syncs", err: syscall.EIO, hits: syncs, held: true},
		{name: "a full disk that a sync tells of", err: syscall.ENOSPC, hits: syncs},
	}
}

func syncs(op faults.Op) bool {
	return op.Call == faults.Sync || op.Call == faults.DataSync || op.Call == faults.SyncFS
}

func changesDisk(op faults.Op) bool {
	return op.Changes() && !syncs(op) && op.Call != faults.Lock
}

func takesSpace(op faults.Op) bool {
	switch op.Call {
	case faults.Open, faults.OpenStat:
		return op.Changes()
	case faults.WriteAt, faults.WritevAt, faults.Allocate, faults.Tmpfile, faults.Mkdir, faults.Mknod,
		faults.Symlink, faults.Link, faults.LinkFile, faults.Rename, faults.Setxattr, faults.SetxattrAt:
		return true
	}
	return false
}

func (b *breakage) hook(op faults.Op) error {
	if !b.on.Load() || !b.hits(op) {
		return nil
	}
	if n := b.seen.Add(1) - 1; n < b.at || n > b.at && !b.held {
		return nil
	}
	b.failed.Add(1)
	part := b.part
	if part < 0 {
		part = 4096 - op.Off%4096
	}
	if part > 0 && part < op.Len && (op.Call == faults.WriteAt || op.Call == faults.WritevAt) {
		return &faults.Partial{N: part, Err: b.err}
	}
	return b.err
}

// on makes a step that acts on the node of path.
func on(what, path string, do func(v *vault.Vault, n *vault.Node) error) step {
	return step{what + " " + path, func(v *vault.Vault) error {
		n, err := find(v, path)
		if err != nil {
			return err
		}
		defer v.Forget(n, 1)
		return do(v, n)
	}}
}

func write(path string, off int64, seed byte, size int64) step {
	return on("write", path, func(v *vault.Vault, n *vault.Node) error {
		_, err := v.Write(ctx, n, pattern(seed, size), off, vault.KeepPrivileges)
		return err
	})
}

func truncate(path string, size int64) step {
	return on("truncate", path, func(v *vault.Vault, n *vault.Node) error {
		return v.Truncate(ctx, n, size, vault.KeepPrivileges)
	})
}

func allocate(path string, mode uint32, off, size int64) step {
	return on("allocate", path, func(v *vault.Vault, n *vault.Node) error {
		return v.Allocate(ctx, n, mode, off, size, vault.KeepPrivileges)
	})
}

func setxattr(path, value string) step {
	return on("setxattr", path, func(v *vault.Vault, n *vault.Node) error {
		return v.Setxattr(ctx, n, "user.test", []byte(value), 0)
	})
}

func setattr(path string, c vault.SetAttr) step {
	return on("setattr", path, func(v *vault.Vault, n *vault.Node) error {
		_, err := v.SetAttr(ctx, n, c)
		return err
	})
}

func fsync(path string, scope vault.SyncScope) step {
	return on("fsync", path, func(v *vault.Vault, n *vault.Node) error { return v.Fsync(n, scope) })
}

func zone(path, key string) step {
	return on("zone", path, func(v *vault.Vault, n *vault.Node) error { return v.SetZone(ctx, n, key) })
}

func reencrypt(path string) step {
	return on("reencrypt", path, func(v *vault.Vault, n *vault.Node) error {
		return v.Reencrypt(ctx, []*vault.Node{n}, vault.ReencryptOptions{})[0].Err
	})
}

func flush() step { return step{"flush", func(v *vault.Vault) error { return v.Flush() }} }

const closing = "close"

// scenario is one operation, and what was done before it since the vault was opened.
type scenario struct {
	warm []step
	op   step
}

// scenarios are all operations of a vault on the files of callFiles.
func scenarios() []scenario {
	mode, size := uint32(0o600), int64(100)
	other := uint32(7)
	past := backing.Timespec{Sec: 1e9}
	over := []step{write("big", 5000, 80, 9000), write("small", 10, 81, 50), write("mid", 4096, 82, 4096)}
	one := func(ss ...step) (out []scenario) {
		for _, s := range ss {
			out = append(out, scenario{op: s})
		}
		return out
	}
	all := one(
		put("new", nil), put("new", pattern(1, 300)), put("new", pattern(1, 300_000)), put("d/"+longB, pattern(2, 20)),
		write("empty", 0, 3, 900), write("empty", 0, 3, 9000), write("empty", 400_000, 3, 10), write("xempty", 0, 3, 9000),
		write("small", 100, 4, 90), write("small", 0, 4, 2000), write("small", 3000, 4, 4000), // over, longer, into groups
		write("big", 4096, 5, 4096), write("big", 100, 5, 40_000), write("big", 250_000, 5, 30_000), // over, part of chunks, two groups
		write("big", 300_000, 6, 5000), write("big", 299_000, 6, 50_000), write("log", 5000, 7, 80), // behind the end
		write("sparse", 200_000, 8, 5000), write("sparse", 600_000, 8, 10),
		truncate("small", 0), truncate("small", 50), truncate("small", 3000), truncate("small", 50_000),
		truncate("big", 0), truncate("big", 100), truncate("big", 258_048), truncate("big", 299_999), truncate("big", 1<<20),
		truncate("xempty", 0), truncate("xa", 0), truncate("sparse", 4000),
		allocate("big", 3, 4096, 50_000), allocate("big", 3, 0, 300_000), allocate("small", 3, 0, 100), allocate("sparse", 0, 0, 400_000),
		allocate("big", 0x10, 5000, 20_000), allocate("big", 1, 0, 1<<20),
		step{"copy", func(v *vault.Vault) error {
			return on("", "big", func(v *vault.Vault, src *vault.Node) error {
				return on("", "mid", func(v *vault.Vault, dst *vault.Node) error {
					_, err := v.CopyRange(ctx, src, 1000, dst, 3000, 40_000, vault.KeepPrivileges)
					return err
				}).do(v)
			}).do(v)
		}},
		rename("small", "moved", 0), rename("small", "big", 0), rename("d/"+longA, longB, 0), rename("d", "d2", 0), rename("d", "e", 0),
		rename("small", "big", vault.RenameExchange), rename("hard1", "small", 0), rename("small", "d/in", 0),
		link("small", "d/second"), link("mid", longB), unlink("small"), unlink("big"), unlink("hard1"), unlink("d/"+longA), unlink("link"),
		mkdir("new"), mkdir("d/"+longB), rmdir("d2"), symlink("slink", "some/where/else"), symlink(longB, "x"),
		step{"tmpfile", func(v *vault.Vault) error {
			n, _, err := v.Tmpfile(v.Root(), 0o600, who)
			if err != nil {
				return err
			}
			defer v.Forget(n, 1)
			defer v.Release(n)
			if _, err := v.Write(ctx, n, pattern(9, 5000), 0, vault.KeepPrivileges); err != nil {
				return err
			}
			_, err = v.Link(n, v.Root(), "fromtmp")
			return err
		}},
		setxattr("small", "red"), setxattr("empty", "red"), setxattr("xa", "green"), setxattr("d", "blue"),
		on("removexattr", "xa", func(v *vault.Vault, n *vault.Node) error { return v.Removexattr(ctx, n, "user.test") }),
		setattr("small", vault.SetAttr{Mode: &mode}), setattr("big", vault.SetAttr{UID: &other, GID: &other}),
		setattr("d", vault.SetAttr{Mode: &mode}), setattr("big", vault.SetAttr{Size: &size, Mtime: &past}), setattr("link", vault.SetAttr{Mtime: &past}),
		fsync("small", vault.SyncAll), fsync("d", vault.SyncAll), zone("d", "alias/other"), reencrypt("small"), reencrypt("big"), reencrypt("sparse"),
		on("read", "big", func(v *vault.Vault, n *vault.Node) error {
			_, err := v.Read(ctx, n, make([]byte, 300_000), 0)
			return err
		}),
		step{"look", func(v *vault.Vault) error { _, err := look(v); return err }},
	)
	for _, op := range []step{ // after something was written over that is not in place yet
		flush(), {closing, nil}, fsync("big", vault.SyncData), fsync("small", vault.SyncAll), write("big", 6000, 83, 3000), write("big", 290_000, 83, 20_000),
		write("small", 0, 84, 3900), write("small", 20, 84, 6000), truncate("big", 7000), truncate("small", 30), truncate("mid", 6000),
		truncate("big", 0), allocate("big", 3, 4096, 8192), unlink("big"), rename("small", "big", 0), rename("big", "d/in", 0), reencrypt("big"), reencrypt("small"),
	} {
		all = append(all, scenario{over, op})
	}
	grown := []step{write("log", 5000, 85, 9000), write("empty", 0, 86, 300_000), put("fresh", pattern(87, 6000)), unlink("mid"), truncate("sparse", 4000)}
	return append(all, scenario{grown, flush()}, scenario{grown, step{closing, nil}}, scenario{grown, fsync("log", vault.SyncAll)},
		scenario{grown, write("log", 14_000, 88, 300)}, scenario{grown, truncate("log", 6000)})
}

// callFiles is the file system with the files of the scenarios, closed and durable.
func callFiles(t *testing.T, ks *memoryKeys) *memfs.FS {
	fs := memfs.New(memfs.Config{})
	makeVault(t, fs.Root, ks, 4096)
	v := openVault(t, fs.Root, ks, vault.Options{})
	for _, s := range []step{
		mkdir("d"), mkdir("d2"), put("small", pattern(20, 700)), put("big", pattern(21, 300_000)), put("log", pattern(22, 5000)),
		put("mid", pattern(23, 9000)), put("empty", nil), put("xempty", nil), setxattr("xempty", "on nothing"), put("xa", pattern(24, 5000)),
		setxattr("xa", "on something"), put("sparse", pattern(25, 5000)), truncate("sparse", 500_000), put("d/in", pattern(26, 4000)),
		put("d/"+longA, pattern(27, 10)), put("hard1", pattern(28, 100)), link("hard1", "hard2"), symlink("link", "some/where"),
	} {
		if err := s.do(v); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
	}
	if err := errors.Join(v.Close(), fs.Root().SyncFS()); err != nil {
		t.Fatal(err)
	}
	return fs
}

// object is what a path names.
type object struct {
	kind, mode, uid, nlink uint32
	mtime                  int64 // where it was set
	text                   string
	data                   modelFile
}

// objects reads all of a vault, by path.
func objects(v *vault.Vault) (map[string]object, error) {
	all := map[string]object{}
	var into func(dir *vault.Node, path string) error
	into = func(dir *vault.Node, path string) error {
		defer v.Forget(dir, 1)
		var names []string
		if err := v.ReadDir(dir, func(e vault.DirEntry) bool { names = append(names, e.Name); return true }); err != nil {
			return fmt.Errorf("list %q: %w", path, err)
		}
		for _, name := range names {
			p := strings.TrimPrefix(path+"/"+name, "/")
			n, st, err := v.Lookup(dir, name)
			if err != nil {
				return fmt.Errorf("look up %q: %w", p, err)
			}
			o := object{kind: n.Kind(), mode: st.Mode, uid: st.UID, nlink: st.Nlink}
			if st.Mtim.Sec == 1e9 {
				o.mtime = 1e9
			}
			o.data.exists = true
			if n.Kind() == syscall.S_IFLNK {
				o.text, err = v.Readlink(n)
			} else if x, e := v.Getxattr(ctx, n, "user.test"); e == nil {
				o.data.xattr = string(x)
			} else if !errors.Is(e, syscall.ENODATA) {
				err = e
			}
			if n.Kind() == syscall.S_IFREG && err == nil {
				o.data.data = make([]byte, st.Size+4097)
				var k int
				k, err = v.Read(ctx, n, o.data.data, 0)
				o.data.data = o.data.data[:k]
				if now, e := v.Attr(n); err == nil && (e != nil || now.Size != int64(k)) { // of an open file the size is known
					err = fmt.Errorf("%d bytes of %d are read, %w", k, now.Size, e)
				}
			}
			if err == nil && n.Kind() == syscall.S_IFDIR {
				o.nlink = 0
				if o.text, err = v.Zone(n); err == nil {
					v.Refer(n)
					err = into(n, p)
				}
			}
			v.Forget(n, 1)
			if err != nil {
				return fmt.Errorf("read %q: %w", p, err)
			}
			all[p] = o
		}
		return nil
	}
	v.Refer(v.Root())
	return all, into(v.Root(), "")
}

func (o object) equal(p object) bool {
	return o.kind == p.kind && o.mode == p.mode && o.uid == p.uid && o.nlink == p.nlink && o.mtime == p.mtime && o.text == p.text &&
		o.data.xattr == p.data.xattr && bytes.Equal(o.data.data, p.data.data)
}

// differ says in which path two trees differ, "" in none.
func differ(a, b map[string]object) string {
	for p := range a {
		if o, ok := b[p]; !ok || !a[p].equal(o) {
			return fmt.Sprintf("%.20s: %.100v, want %.100v", p, a[p], o)
		}
	}
	for p := range b {
		if _, ok := a[p]; !ok {
			return p + " is missing"
		}
	}
	return ""
}

// amid says why got cannot be what an operation that failed leaves between before and after.
func amid(before, after, got map[string]object) string {
	for p, g := range got {
		b, inB := before[p]
		a, inA := after[p]
		switch {
		case !inB && !inA:
			return fmt.Sprintf("%.20s has appeared", p)
		case g.kind != syscall.S_IFREG:
			if !(inB && g.text == b.text) && !(inA && g.text == a.text) && !(inB && inA) {
				return fmt.Sprintf("%.20s reads as %q", p, g.text)
			}
		case g.equal(b) || g.equal(a):
		case inB && inA && b.nlink == a.nlink || !inB && inA:
			if why := between(&b.data, &a.data, &g.data); why != "" {
				return fmt.Sprintf("%.20s: %s", p, why)
			}
		case !bytes.Equal(g.data.data, a.data.data) && !bytes.Equal(g.data.data, b.data.data):
			return fmt.Sprintf("%.20s reads as other data", p)
		}
	}
	for p := range before {
		if _, stays := after[p]; !stays {
			continue
		}
		if _, ok := got[p]; !ok {
			return fmt.Sprintf("%.20s is gone", p)
		}
	}
	for p := range before { // what goes may be gone only when the operation is done
		if _, ok := got[p]; !ok && len(got) < min(len(before), len(after)) {
			return fmt.Sprintf("%.20s is gone, and nothing has come", p)
		}
	}
	return ""
}

// wrongErrno says why a caller would not get errno of err: the rule of fs/errno.go, for what can come up here.
func wrongErrno(err error, errno syscall.Errno) string {
	var no syscall.Errno
	switch {
	case errno != syscall.EIO && (errors.Is(err, vault.ErrCorrupt) || errors.Is(err, envelope.ErrCorrupt)):
		return "is taken for damage"
	case errors.Is(err, vault.ErrCorrupt) || errors.Is(err, vault.ErrStale):
		return "is not what happened"
	case errors.Is(err, vault.ErrUnfinished): // of Reencrypt, which is no system call
		return ""
	case !errors.As(err, &no) || no != errno:
		return "is not " + errno.Error()
	}
	return ""
}

// TestCallFaults fails the calls of each operation of a vault in turn, in each of the ways that disks fail. The caller is told
// with the right errno or it is done; when the disk works again nothing is harmed, the vault works on, and closes, and
// opens as it was.
func TestCallFaults(t *testing.T) {
	stride, every := effort[int64](t, 61, 19, 1), effort(t, 5, 3, 1) // of the breakages
	ks := &memoryKeys{}
	base := callFiles(t, ks)
	goroutines := runtime.NumGoroutine()
	var injected, runs atomic.Int64
	t.Run("operations", func(t *testing.T) {
		for i, sc := range scenarios() {
			t.Run(fmt.Sprintf("%d %.20s", i, sc.op.name), func(t *testing.T) {
				t.Parallel()
				after := callsDone(t, base, ks, sc)
				for j, kind := range breakages() {
					if (i+j)%every != 0 {
						continue
					}
					for at := int64(i+j) % stride; ; at += stride {
						b := &breakage{name: kind.name, err: kind.err, hits: kind.hits, held: kind.held, part: kind.part, at: at}
						failCall(t, base, ks, sc, b, after)
						runs.Add(1)
						injected.Add(b.failed.Load())
						if b.failed.Load() == 0 {
							break
						}
					}
				}
			})
		}
	})
	noLeaks(t, goroutines)
	t.Logf("%d operations, %d runs, %d calls failed", len(scenarios()), runs.Load(), injected.Load())
}

// callsDone returns what there is before and after the operation when nothing fails.
func callsDone(t *testing.T, base *memfs.FS, ks *memoryKeys, sc scenario) (trees [2]map[string]object) {
	t.Helper()
	fs := base.Kill()
	v := openVault(t, fs.Root, ks, vault.Options{JournalFor: 1 << 50})
	for _, s := range sc.warm {
		if err := s.do(v); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if trees[0], err = objects(v); err != nil {
		t.Fatal(err)
	}
	if sc.op.name == closing {
		trees[1] = trees[0]
		v.Close()
		return trees
	}
	if err := sc.op.do(v); err != nil {
		t.Fatalf("%s: %v", sc.op.name, err)
	}
	if trees[1], err = objects(v); err != nil {
		t.Fatal(err)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	return trees
}

func failCall(t *testing.T, base *memfs.FS, ks *memoryKeys, sc scenario, b *breakage, trees [2]map[string]object) {
	t.Helper()
	fs := base.WithHook(b.hook)
	var handles atomic.Int64
	root := func() backing.Dir { return countHandles(fs.Root(), &handles) }
	fail := func(format string, args ...any) {
		t.Helper()
		t.Fatalf("%.40s: %s at call %d (%d failed): %s", sc.op.name, b.name, b.at, b.failed.Load(), fmt.Sprintf(format, args...))
	}
	v := openVault(t, root, ks, vault.Options{JournalFor: 1 << 50})
	for _, s := range sc.warm {
		if err := s.do(v); err != nil {
			fail("%v", err)
		}
	}
	b.on.Store(true)
	var err error
	if sc.op.name == closing {
		err = v.Close()
		v = nil
	} else {
		err = sc.op.do(v)
	}
	b.on.Store(false)
	if err != nil {
		if why := wrongErrno(err, b.err); why != "" {
			fail("the error %v %s", err, why)
		}
		if b.failed.Load() == 0 {
			fail("%v", err)
		}
	}
	var got map[string]object
	look := func(when string) {
		t.Helper()
		now, lerr := objects(v)
		if lerr != nil {
			fail("%s, after %v: %v", when, err, lerr)
		}
		if got == nil && err == nil {
			got = trees[1]
		} else if got == nil {
			if why := amid(trees[0], trees[1], now); why != "" {
				fail("%s, after %v: %s", when, err, why)
			}
			got = now
		}
		if why := differ(now, got); why != "" {
			fail("%s, after %v: %s", when, err, why)
		}
	}
	if v != nil {
		look("at once")
		if werr := worksOn(v, got); werr != nil {
			fail("after %v the vault does not work on: %v", err, werr)
		}
		look("after more work")
		if err := v.Close(); err != nil {
			fail("close: %v", err)
		}
	}
	if n := handles.Load(); n != 0 {
		fail("%d handles stay open", n)
	}
	for _, access := range []vault.Access{vault.ReadOnly, vault.ReadWrite, vault.ReadWrite} {
		var oerr error
		if v, oerr = vault.Open(ctx, root(), ks, vault.Options{Access: access}); oerr != nil {
			fail("it does not open again: %v", oerr)
		}
		look("opened again")
		if access == vault.ReadOnly {
			r, cerr := check.Run(ctx, fs.Root(), check.Options{Vault: v})
			if cerr != nil {
				fail("check: %v", cerr)
			}
			for _, f := range r.Findings {
				if f.Kind != check.Note {
					fail("after %v the check finds %+v", err, f)
				}
			}
		}
		if err := v.Close(); err != nil {
			fail("close: %v", err)
		}
	}
	if left := leftInTmp(t, fs); left != 0 {
		fail("%d names are left in tmp", left)
	}
}

// leftInTmp counts the names in .kmsfs/tmp.
func leftInTmp(t *testing.T, fs *memfs.FS) (n int) {
	t.Helper()
	ctl, err := fs.Root().OpenDir(envelope.ControlDir)
	if err != nil {
		t.Fatal(err)
	}
	tmp, err := ctl.OpenDir("tmp")
	if err != nil {
		t.Fatal(err)
	}
	if err := tmp.ReadDir(func(backing.Entry) bool { n++; return true }); err != nil {
		t.Fatal(err)
	}
	return n
}

// worksOn uses a vault without changing what is in it: nothing waits for a lock that nobody lets go of.
func worksOn(v *vault.Vault, all map[string]object) error {
	for _, p := range slices.Sorted(maps.Keys(all)) {
		o := all[p]
		if o.kind != syscall.S_IFREG || len(o.data.data) == 0 || o.mtime != 0 {
			continue
		}
		err := on("write", p, func(v *vault.Vault, n *vault.Node) error {
			end := int64(len(o.data.data))
			_, err := v.Write(ctx, n, o.data.data[end/2:], end/2, vault.KeepPrivileges)
			if e := v.Fsync(n, vault.SyncData); e != nil { // of a sync that failed before: once
				e = v.Fsync(n, vault.SyncData)
				err = errors.Join(err, e)
			}
			return err
		}).do(v)
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
	}
	for _, s := range []step{put("works", pattern(1, 5000)), mkdir("works.d"), rename("works", "works.d/on", 0), flush(), unlink("works.d/on"), rmdir("works.d"), flush()} {
		done := make(chan error, 1)
		go func() { done <- s.do(v) }()
		select {
		case err := <-done:
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		case <-time.After(20 * time.Second):
			return fmt.Errorf("%s hangs", s.name)
		}
	}
	return nil
}
