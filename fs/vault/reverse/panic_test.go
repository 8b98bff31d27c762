package reverse_test

import (
	"bytes"
	"context"
	"fmt"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"kmsfs/fs/backing"
	"kmsfs/fs/backing/faults"
	"kmsfs/fs/vault/bug"
	"kmsfs/fs/vault/reverse"
	"kmsfs/keysource"
)

// panicking is a key store that panics where it is told to.
type panicking struct {
	keysource.Keysource
	before func(call string)
}

func (p panicking) GenerateDataKey(ctx context.Context, in keysource.GenerateDataKeyInput) (keysource.DataKey, error) {
	p.before("GenerateDataKey")
	return p.Keysource.GenerateDataKey(ctx, in)
}

func (p panicking) Decrypt(ctx context.Context, in keysource.DecryptInput) (keysource.DecryptResult, error) {
	p.before("Decrypt")
	return p.Keysource.Decrypt(ctx, in)
}

// TestPanics has each call below an open view panic in turn, of the source, the state and the key store: it ends what it was
// made for, which is told, and nothing else; the same view then shows all, and ends.
func TestPanics(t *testing.T) {
	seen := 0
	const stride = 3
	for k := int64(0); ; k += stride {
		b := newBench(t, 4096)
		b.fill(4096)
		const nobody = 1 << 60
		var left atomic.Int64
		left.Store(nobody)
		before := func(call string) {
			if left.Add(-1) == -1 {
				panic("in " + call)
			}
		}
		hooked := func(d backing.Dir) backing.Dir {
			return faults.Wrap(d, func(op faults.Op) error { before(string(op.Call)); return nil })
		}
		v, err := reverse.Open(t.Context(), hooked(b.src.Root()), hooked(b.state.Root()), panicking{b.ks, before}, reverse.Options{})
		must(t, err)
		vk := b.keys()
		paths := [][]string{{"size 1"}, {"size 4097"}, {fmt.Sprintf("size %d", 200*4096+77)}, {"a directory", "b", "c", "file"}, {"two names"}}
		left.Store(k)
		var told []error
		inTime := func(what string, f func() error) {
			t.Helper()
			ended := make(chan error, 1)
			go func() {
				defer func() {
					if p := recover(); p != nil {
						ended <- fmt.Errorf("%w: %v", bug.Err, bug.Attrs(p))
					}
				}()
				ended <- f()
			}()
			select {
			case err := <-ended:
				if err != nil {
					told = append(told, fmt.Errorf("%s: %w", what, err))
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("call %d: %s hangs", k, what)
			}
		}
		inTime("prepare", func() error { return v.Prepare(t.Context()) })
		show := func() map[string]string {
			got := map[string]string{}
			for _, path := range paths {
				var h *reverse.Handle
				var p []byte
				name := strings.Join(path, "/")
				inTime("open "+name, func() error {
					n, err := lookup(v, vk, path...)
					if err != nil {
						return err
					}
					st, err := v.Attr(n)
					if err == nil {
						p = make([]byte, st.Size)
						h, _, err = v.Open(n)
					}
					return err
				})
				if h == nil {
					continue
				}
				for range 2 { // what has panicked is not what another reader waits for
					inTime("read "+name, func() error {
						_, err := h.Read(t.Context(), p, 0)
						if err == nil {
							got[name] = string(p)
						}
						return err
					})
				}
				inTime("close "+name, func() error { h.Close(); return nil })
			}
			return got
		}
		show()
		happened := left.Swap(nobody) < 0
		if happened {
			seen++
		}
		if !happened && len(told) > 0 {
			t.Fatalf("without a panic: %v", told)
		}
		told = nil
		got := show()
		if len(told) > 0 || len(got) != len(paths) {
			t.Fatalf("after the panic of call %d: %v", k, told)
		}
		inTime("close", v.Close)
		if len(told) > 0 {
			t.Fatalf("after the panic of call %d: %v", k, told)
		}
		calm := b.open(reverse.Options{})
		for _, path := range paths {
			if name := strings.Join(path, "/"); got[name] != string(read(t, calm, find(t, calm, vk, path...))) {
				t.Fatalf("after the panic of call %d another view shows %s differently", k, name)
			}
		}
		must(t, calm.Close())
		if !happened {
			break
		}
	}
	if seen < 50 {
		t.Errorf("%d panics", seen)
	}
}

// TestAheadPanics: keys that are asked for before they are needed cost nobody anything, also where that panics.
func TestAheadPanics(t *testing.T) {
	b := newBench(t, 4096)
	top := b.src.Root()
	defer top.Close()
	const files = 80
	for i := range files {
		write(t, top, fmt.Sprintf("file %d", i), content(uint64(i), 100), 0)
	}
	v := b.open(reverse.Options{})
	must(t, v.Prepare(t.Context()), v.Close())
	var panics atomic.Int64
	ks := panicking{b.ks, func(call string) {
		if bytes.Contains(debug.Stack(), []byte("(*ahead).fetch")) {
			panics.Add(1)
			panic("in " + call)
		}
		time.Sleep(3 * time.Millisecond)
	}}
	v = b.openWith(ks, reverse.Options{})
	entries, err := v.List(t.Context(), v.Root())
	must(t, err)
	for _, e := range entries {
		if e.Name == ".kmsfs" {
			continue
		}
		n, _, err := v.LookupEntry(v.Root(), e)
		must(t, err)
		read(t, v, n)
	}
	must(t, v.Close())
	if panics.Load() == 0 {
		t.Error("no key was asked for ahead")
	}
}
