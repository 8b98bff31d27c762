package walk_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"kmsfs/fs/backing/memfs"
	"kmsfs/fs/vault/walk"
)

// TestRun looks at everything once, and each worker ends once.
func TestRun(t *testing.T) {
	const workers = 5
	var seen [1 << 10]atomic.Int32
	var ends atomic.Int32
	err := walk.Run(t.Context(), workers, []int{1}, func(q *walk.Queue[int]) (func(int) error, func()) {
		return func(n int) error {
			seen[n].Add(1)
			if 2*n+1 < len(seen) {
				q.Put(2*n, 2*n+1)
			}
			return nil
		}, func() { ends.Add(1) }
	})
	if err != nil || ends.Load() != workers {
		t.Fatalf("%v, %d workers ended", err, ends.Load())
	}
	for n := 1; n < len(seen); n++ {
		if got := seen[n].Load(); got != 1 {
			t.Fatalf("%d was looked at %d times", n, got)
		}
	}
}

// TestEnd ends at an error, and when the context does.
func TestEnd(t *testing.T) {
	bad := errors.New("bad")
	again := func(err error, cancel func()) func(q *walk.Queue[int]) (func(int) error, func()) {
		return func(q *walk.Queue[int]) (func(int) error, func()) {
			return func(n int) error {
				if n == 100 {
					cancel()
					return err
				}
				q.Put(n + 1)
				return nil
			}, nil
		}
	}
	if err := walk.Run(t.Context(), 3, []int{1, 2}, again(bad, func() {})); !errors.Is(err, bad) {
		t.Errorf("an error: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := walk.Run(ctx, 3, []int{1}, again(nil, cancel)); !errors.Is(err, context.Canceled) {
		t.Errorf("the end of the context: %v", err)
	}
}

// TestOpen goes down by stored names.
func TestOpen(t *testing.T) {
	top := memfs.New(memfs.Config{}).Root()
	if err := top.Mkdir("a", 0o700); err != nil {
		t.Fatal(err)
	}
	a, err := walk.Open(top, "a")
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Mkdir("b", 0o700); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{"": true, "a": true, "a/b": true, "b": false, "a/b/c": false, "a//b": false} {
		d, err := walk.Open(top, path)
		if (err == nil) != want {
			t.Errorf("%q: %v", path, err)
		}
		if err == nil {
			d.Close()
		}
	}
}

// TestPanic: a worker that panics ends the others, which end as usual, and then the caller panics.
func TestPanic(t *testing.T) {
	const workers = 4
	var ends atomic.Int32
	defer func() {
		if recover() == nil || ends.Load() != workers {
			t.Errorf("%d workers have ended", ends.Load())
		}
	}()
	err := walk.Run(t.Context(), workers, []int{1}, func(q *walk.Queue[int]) (func(int) error, func()) {
		return func(n int) error {
			if n == 100 {
				panic("at the hundredth")
			}
			q.Put(n + 1)
			return nil
		}, func() { ends.Add(1) }
	})
	t.Errorf("ended with %v", err)
}
