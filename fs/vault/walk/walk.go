// Package walk looks at a stored tree with many workers at once: a queue of what is to be looked at, and how a stored
// directory is reached. Start with [Run]. It knows nothing of what is in a directory, and keeps no order.
package walk

import (
	"context"
	"runtime"
	"strings"
	"sync"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault/bug"
)

// PerCore is how many workers pay for each processor: what is not cached waits for the disk.
const PerCore = 4

// Workers returns how many workers look at directories at once.
func Workers() int { return PerCore * runtime.GOMAXPROCS(0) }

// Queue is what is to be looked at; the last found comes first, which keeps it short. Safe for concurrent use.
type Queue[T any] struct {
	mu   sync.Mutex
	cond *sync.Cond
	todo []T
	busy int
	stop bool
}

// Put adds something to be looked at. Only who has taken something and is not done with it may call it.
func (q *Queue[T]) Put(t ...T) {
	q.mu.Lock()
	q.todo = append(q.todo, t...)
	q.mu.Unlock()
	for range t {
		q.cond.Signal()
	}
}

// take returns what is to be looked at next; false when all is done.
func (q *Queue[T]) take() (t T, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.todo) == 0 && q.busy > 0 && !q.stop {
		q.cond.Wait()
	}
	if len(q.todo) == 0 || q.stop {
		return t, false
	}
	last := len(q.todo) - 1
	t = q.todo[last]
	clear(q.todo[last:])
	q.todo = q.todo[:last]
	q.busy++
	return t, true
}

func (q *Queue[T]) done() {
	q.mu.Lock()
	q.busy--
	q.mu.Unlock()
	q.cond.Broadcast()
}

func (q *Queue[T]) end() {
	q.mu.Lock()
	q.stop = true
	q.mu.Unlock()
	q.cond.Broadcast()
}

// Run has workers look at first and all that they put into the queue. work is called once by each worker, to give the
// function that looks at one thing and the one that is called when the worker ends, which may be nil. Run returns when all
// workers have ended: the first error of any, which ends the others after what they are at, or that of ctx. It panics where one
// of them has.
func Run[T any](ctx context.Context, workers int, first []T, work func(q *Queue[T]) (look func(T) error, end func())) error {
	q := &Queue[T]{todo: first}
	q.cond = sync.NewCond(&q.mu)
	stop := context.AfterFunc(ctx, q.end)
	defer stop()
	wg := bug.Group{Stop: q.end}
	var once sync.Once
	var failed error
	for range workers {
		wg.Go(func() {
			look, end := work(q)
			if end != nil {
				defer end()
			}
			for t, ok := q.take(); ok; t, ok = q.take() {
				if err := look(t); err != nil {
					once.Do(func() { failed = err })
					q.end()
				}
				q.done()
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	return failed
}

// Open opens the directory with the given stored names below top, one by one: none of them is followed anywhere else.
func Open(top backing.Dir, path string) (backing.Dir, error) {
	d, err := top.Dup()
	for err == nil && path != "" {
		name, rest, _ := strings.Cut(path, "/")
		var next backing.Dir
		next, err = d.OpenDir(name)
		d.Close()
		d, path = next, rest
	}
	return d, err
}

// Split is a path of names, the last apart.
func Split(path string) (dir, name string) {
	i := strings.LastIndexByte(path, '/')
	return path[:max(i, 0)], path[i+1:]
}

// Join is the path of a name in a directory, "" being the top.
func Join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}
