package vault_test

import (
	"errors"
	"maps"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"kmsfs/fs/backing"
	"kmsfs/fs/backing/memfs"
	"kmsfs/fs/vault"
)

var (
	longA = strings.Repeat("a", 255)
	longB = strings.Repeat("b", 200)
)

// nameSteps are changes of names of every kind.
func nameSteps() []step {
	return []step{
		put("f", pattern(1, 100)), put("g", pattern(2, 9000)), put("empty", nil), mkdir("d"), mkdir("d/e"),
		put("d/"+longA, pattern(3, 10)), rename("d/"+longA, longB, 0), put("d/h", pattern(4, 5000)),
		link("g", "d/g2"), link("f", longA), unlink("g"), symlink("s", "somewhere"), link("s", "d/s2"), symlink("d/"+longB, "else"),
		rename("f", "d/h", 0), rename("empty", "f", 0), rename("d/h", "f", vault.RenameExchange), unlink(longA), rename("s", longB, 0),
		unlink("d/" + longB), mkdir("x"), mkdir("y"), rename("x", "d/x", 0), rename("d/x", "y", 0), rename("y", "d", vault.RenameExchange),
		rmdir("d"), mkdir(longA), rename(longA, "dir", vault.RenameNoReplace), rmdir("dir"), unlink("y/g2"), unlink("y/s2"), rmdir("y/e"),
		unlink("y/h"), rmdir("y"), put("last", pattern(9, 5)), unlink("f"), unlink(longB),
	}
}

// clean runs the steps undisturbed and returns the tree after each.
func clean(t *testing.T, steps []step) []tree {
	t.Helper()
	at, _ := inMemory()
	ks := &memoryKeys{}
	v := newVault(t, at, ks, vault.Options{})
	trees := []tree{{}}
	for _, s := range steps {
		if err := s.do(v); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		tr, err := look(v)
		if err != nil {
			t.Fatalf("after %s: %v", s.name, err)
		}
		trees = append(trees, tr)
	}
	if err := v.Flush(); err != nil {
		t.Fatal(err)
	}
	if n := v.NodeCount(); n != 1 {
		t.Errorf("%d nodes are left", n-1)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if n, left := records(t, at); n != 1 || left != 0 {
		t.Errorf("%d records for 1 file, %d names in tmp", n, left)
	}
	return trees
}

// halfway says whether got is what a kill may leave of a directory renamed over another: the empty one is left under
// the old name.
func halfway(s step, got, after tree) bool {
	f := strings.Fields(s.name)
	if f[0] != "rename" || got["/"+f[1]] != "directory" {
		return false
	}
	m := maps.Clone(got)
	delete(m, "/"+f[1])
	return maps.Equal(m, after)
}

func TestKillNames(t *testing.T) {
	steps := nameSteps()
	trees := clean(t, steps)
	for at := int64(0); ; at++ {
		k := &killer{at: -1}
		fs := memfs.New(memfs.Config{Hook: k.hook})
		ks := &memoryKeys{}
		v := newVault(t, fs.Root, ks, vault.Options{})
		k.arm(at)
		done := 0
		var err error
		for _, s := range steps {
			if err = s.do(v); err != nil || k.reached() {
				break
			}
			done++
		}
		v.Close()
		if err != nil && !k.reached() {
			t.Fatalf("%s: %v", steps[done].name, err)
		}
		after := fs.Kill()
		for round := range 2 {
			v = openVault(t, after.Root, ks, vault.Options{})
			got, lerr := look(v)
			if lerr != nil {
				t.Fatalf("moment %d, round %d, in %s: %v", at, round, steps[min(done, len(steps)-1)].name, lerr)
			}
			ok := maps.Equal(got, trees[done])
			if done < len(steps) {
				s := steps[done]
				ok = ok || maps.Equal(got, trees[done+1]) || halfway(s, got, trees[done+1])
				if strings.HasPrefix(s.name, "put ") { // two operations
					path := "/" + strings.TrimPrefix(s.name, "put ")
					m := maps.Clone(got)
					delete(m, path)
					ok = ok || strings.Contains(got[path], " 0 bytes") && maps.Equal(m, trees[done])
				}
			}
			if !ok {
				t.Fatalf("moment %d, round %d, in %s:\n%v\nbefore:\n%v", at, round, steps[min(done, len(steps)-1)].name, got, trees[done])
			}
			if err := v.Flush(); err != nil {
				t.Fatal(err)
			}
			if err := v.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if _, left := records(t, after.Root); left != 0 {
			t.Fatalf("moment %d: %d names are left in tmp", at, left)
		}
		if !k.reached() {
			break
		}
	}
}

func TestNameFaults(t *testing.T) {
	steps := nameSteps()
	trees := clean(t, steps)
	goroutines := runtime.NumGoroutine()
	for n := int64(0); ; n++ {
		f := &fault{at: n, err: syscall.EIO}
		fs := memfs.New(memfs.Config{Hook: f.hook})
		var handles atomic.Int64
		at := func() backing.Dir { return countHandles(fs.Root(), &handles) }
		ks := &memoryKeys{}
		v := newVault(t, at, ks, vault.Options{KeepEvery: time.Hour})
		f.on.Store(true)
		for i, s := range steps {
			err := s.do(v)
			if err == nil {
				continue
			}
			if !errors.Is(err, syscall.EIO) {
				t.Fatalf("call %d, %s: %v", n, s.name, err)
			}
			got, lerr := look(v)
			if lerr != nil {
				t.Fatalf("call %d, after %s failed: %v", n, s.name, lerr)
			}
			if maps.Equal(got, trees[i+1]) {
				continue
			}
			if strings.HasPrefix(s.name, "put ") && !maps.Equal(got, trees[i]) {
				if err := unlink(strings.TrimPrefix(s.name, "put ")).do(v); err != nil {
					t.Fatalf("call %d, %s: %v", n, s.name, err)
				}
			} else if !maps.Equal(got, trees[i]) {
				t.Fatalf("call %d, after %s failed:\n%v\nbefore:\n%v", n, s.name, got, trees[i])
			}
			if err := s.do(v); err != nil {
				t.Fatalf("call %d, %s, once more: %v", n, s.name, err)
			}
		}
		f.on.Store(false)
		got, err := look(v)
		if err != nil || !maps.Equal(got, trees[len(steps)]) {
			t.Fatalf("call %d, at the end: %v\n%v", n, err, got)
		}
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
		if h := handles.Load(); h != 0 {
			t.Fatalf("call %d: %d handles stay open", n, h)
		}
		if f.n.Load() <= n {
			break
		}
	}
	noLeaks(t, goroutines)
}
