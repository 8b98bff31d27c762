package vault_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"kmsfs/fs/backing"
	"kmsfs/fs/backing/memfs"
	"kmsfs/fs/vault"
)

// TestConcurrentFile reads, writes, punches and settles one file from many sides: every block read is one that was
// written there.
func TestConcurrentFile(t *testing.T) {
	for _, sharing := range []vault.Sharing{vault.Exclusive, vault.Shared} {
		at, _ := inMemory()
		ks := &memoryKeys{}
		v := newVault(t, at, ks, vault.Options{Sharing: sharing})
		vaults := []*vault.Vault{v}
		if sharing == vault.Shared { // another host
			vaults = append(vaults, openVault(t, at, ks, vault.Options{Sharing: sharing}))
		}
		if err := put("f", nil).do(v); err != nil {
			t.Fatal(err)
		}
		const blocks, workers = 200, 6
		rounds := 150 * times(t)
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(uint64(w), 1))
				v := vaults[w%len(vaults)]
				n, err := find(v, "f")
				if err != nil {
					t.Error(err)
					return
				}
				defer v.Forget(n, 1)
				p := make([]byte, 4096*40)
				for i := range rounds {
					b := r.IntN(blocks)
					count := 1 + r.IntN(40)
					switch q := p[:4096*count]; r.IntN(9) {
					case 0, 1, 2:
						for k := range count {
							binary.LittleEndian.PutUint64(q[k*4096:], uint64(b+k)<<32|uint64(i+1))
							fill := byte(b + k + i + 1)
							for j := 8; j < 4096; j++ {
								q[k*4096+j] = fill
							}
						}
						_, err = v.Write(ctx, n, q, int64(b)*4096, vault.KeepPrivileges)
					case 3:
						err = v.Allocate(ctx, n, 3, int64(b)*4096, int64(count)*4096, vault.KeepPrivileges)
					case 4:
						err = v.Flush()
					case 5:
						err = v.Truncate(ctx, n, int64(r.IntN(3)*b)*4096, vault.KeepPrivileges)
					default:
						var got int
						got, err = v.Read(ctx, n, q, int64(b)*4096)
						for k := 0; k+4096 <= got; k += 4096 {
							x := binary.LittleEndian.Uint64(q[k:])
							fill := byte(x>>32) + byte(x)
							if x == 0 {
								fill = 0
							} else if x>>32 != uint64(b+k/4096) {
								err = fmt.Errorf("block %d reads as block %d", b+k/4096, x>>32)
							}
							if len(bytes.Trim(q[k+8:k+4096], string([]byte{fill}))) > 0 {
								err = fmt.Errorf("block %d is a mix", b+k/4096)
							}
						}
					}
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
		for _, v := range vaults {
			if err := v.Close(); err != nil {
				t.Fatal(err)
			}
		}
		v = openVault(t, at, ks, vault.Options{})
		if _, err := look(v); err != nil {
			t.Error(err)
		}
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// times is how many times as long a test runs.
func times(t testing.TB) int {
	if long(t) {
		return 20
	}
	return 1
}

// allowed are the errors that racing operations on names may meet.
func allowed(err error) bool {
	for _, e := range []error{syscall.ENOENT, syscall.EEXIST, syscall.ENOTEMPTY, syscall.EISDIR, syscall.ENOTDIR, syscall.EINVAL, vault.ErrStale} {
		if err == nil || errors.Is(err, e) {
			return true
		}
	}
	return false
}

// TestConcurrentNames makes, moves, links, reads and removes names from many sides.
func TestConcurrentNames(t *testing.T) {
	for _, o := range []vault.Options{{}, {Opens: vault.Untracked, OpenFiles: 3, OpenDirs: 2}, {Opens: vault.Tracked, OpenFiles: 1, OpenDirs: 1}} {
		fs := memfs.New(memfs.Config{})
		var handles atomic.Int64
		at := func() backing.Dir { return countHandles(fs.Root(), &handles) }
		ks := &memoryKeys{}
		o.KeepEvery = 5 * time.Millisecond
		v := newVault(t, at, ks, o)
		for _, d := range []string{"d0", "d1", "d0/sub"} {
			if err := mkdir(d).do(v); err != nil {
				t.Fatal(err)
			}
		}
		var wg sync.WaitGroup
		for w := range 8 {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(uint64(w), 2))
				name := func() string {
					base := []string{"a", "b", longA, longB}[r.IntN(4)]
					return []string{"", "d0/", "d1/", "d0/sub/", "e/"}[r.IntN(5)] + base
				}
				dir := func() string { return []string{"e", "d1/e", "d0/sub/e"}[r.IntN(3)] }
				for range 400 * times(t) {
					var s step
					switch r.IntN(12) {
					case 0, 1, 2:
						s = put(name(), pattern(byte(w), int64(r.IntN(3))*2500))
					case 3:
						s = unlink(name())
					case 4:
						s = rename(name(), name(), uint32(r.IntN(3)))
					case 5:
						s = link(name(), name())
					case 6:
						s = mkdir(dir())
					case 7:
						s = rmdir(dir())
					case 8:
						s = rename(dir(), dir(), uint32(r.IntN(3)))
					case 9:
						s = symlink(name(), "target")
					default:
						s = use(name(), byte(w))
					}
					if err := s.do(v); !allowed(err) {
						t.Errorf("%s: %v", s.name, err)
						return
					}
				}
			})
		}
		wg.Wait()
		if _, err := look(v); err != nil {
			t.Fatal(err)
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
		if n := handles.Load(); n != 0 {
			t.Errorf("%d handles stay open", n)
		}
		var log bytes.Buffer
		v = openVault(t, at, ks, vault.Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
		files := map[uint64]bool{} // by inode
		countFiles(t, v, "", files)
		v.Close()
		// A record too many is one of a deleted file that was not erased, which is harmless and, seldom, happens in
		// this crowd (seen once in some hundred runs under the race detector, cause not found); one too few is a loss.
		if n, left := records(t, at); n < len(files) || n > len(files)+1 || left != 0 {
			t.Errorf("%d records for %d files, %d names in tmp; %s", n, len(files), left, &log)
		}
	}
}

// use opens a file, writes, reads and forgets it.
func use(path string, seed byte) step {
	return step{"use " + path, func(v *vault.Vault) error {
		n, err := find(v, path)
		if err != nil {
			return err
		}
		defer v.Forget(n, 1)
		if n.Kind() != syscall.S_IFREG {
			return nil
		}
		if err := v.Open(n); err != nil {
			return err
		}
		defer v.Release(n)
		if _, err := v.Write(ctx, n, pattern(seed, 100), int64(seed)*1000, vault.KeepPrivileges); err != nil {
			return fmt.Errorf("an open file must be usable: %v", err) // whatever it is, it is not allowed
		}
		if _, err = v.Read(ctx, n, make([]byte, 10000), 0); err != nil {
			return fmt.Errorf("an open file must be usable: %v", err)
		}
		return nil
	}}
}

func countFiles(t *testing.T, v *vault.Vault, path string, files map[uint64]bool) {
	t.Helper()
	dir, err := find(v, path)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Forget(dir, 1)
	v.ReadDir(dir, func(e vault.DirEntry) bool {
		n, st, err := v.Lookup(dir, e.Name)
		if err != nil {
			t.Error(err)
			return true
		}
		v.Forget(n, 1)
		if n.Kind() == syscall.S_IFDIR {
			countFiles(t, v, path+"/"+e.Name, files)
		} else if n.Kind() == syscall.S_IFREG && st.Size > 0 {
			files[n.Ino()] = true
		}
		return true
	})
}
