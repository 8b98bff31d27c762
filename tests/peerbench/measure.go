package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// cache says what is to be in the kernel's caches when an operation is measured.
type cache int

const (
	anyhow cache = iota
	cold         // nothing: dropped before
	warm         // everything: the operation is done once unmeasured
)

// operation is one piece of work in a directory.
type operation struct {
	name  string
	cache cache
	do    func(w *work, dir string) error
}

// names are the operations' names.
func names(ops []operation) []string {
	n := make([]string, len(ops))
	for i, o := range ops {
		n[i] = o.name
	}
	return n
}

// measure does every operation on every target, a round after another; the targets take turns in being the first.
func measure(ctx context.Context, c config, ts []*target) (*results, error) {
	w, err := newWork(ctx, c)
	if err != nil {
		return nil, err
	}
	r := newResults(c, ts)
	for round := range c.rounds {
		for _, t := range ts {
			if err := t.empty(); err != nil {
				return nil, err
			}
		}
		syscall.Sync()
		for _, op := range operations() {
			if _, wanted := r.Seconds[op.name]; !wanted {
				continue
			}
			for i := range ts {
				t := ts[(i+round)%len(ts)]
				if err := ctx.Err(); err != nil {
					return nil, err
				}
				took, err := w.once(op, t.dir)
				if err != nil {
					fmt.Fprintf(os.Stderr, "peerbench: %s on %s: %v\n", op.name, t.name, err)
					continue
				}
				r.add(op.name, t.name, took)
			}
		}
		fmt.Fprintf(os.Stderr, "peerbench: round %d of %d is done\n", round+1, c.rounds)
	}
	return r, nil
}

// once does op and returns how long it took.
func (w *work) once(op operation, dir string) (time.Duration, error) {
	switch op.cache {
	case cold:
		if err := dropCaches(); err != nil {
			return 0, err
		}
	case warm:
		if err := op.do(w, dir); err != nil {
			return 0, err
		}
	}
	begin := time.Now()
	err := op.do(w, dir)
	return time.Since(begin), err
}

func dropCaches() error {
	syscall.Sync()
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0)
}

// newWork prepares what all targets share.
func newWork(ctx context.Context, c config) (*work, error) {
	w := &work{ctx: ctx, size: c.size, tree: filepath.Base(c.src), tar: filepath.Join(c.dir, "tree.tar"), noise: noise()}
	return w, command(ctx, c.dir, "tar", "-C", filepath.Dir(c.src), "-cf", w.tar, w.tree)
}
