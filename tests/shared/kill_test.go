package shared_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func newRand(id int) *rand.Rand { return rand.New(rand.NewPCG(uint64(id), 99)) }

// killed ends one side's daemon with SIGKILL in the middle of writes, again and again. The other side goes on all the time,
// nothing stays locked, and every block holds the last write that was confirmed or one that was under way.
func killed(t *testing.T, p *pair, dir string) {
	fill(t, p.path(0, dir, "file"))
	const workers = 2
	deadline := time.Now().Add(seconds(t))
	for round := 0; round < 3 || time.Now().Before(deadline); round++ {
		victim := round % 2
		check(t, os.WriteFile(p.path(1, dir, "locked"), nil, 0o600))
		held, err := os.OpenFile(p.path(victim, dir, "locked"), os.O_RDWR, 0)
		check(t, err)
		check(t, unix.Flock(int(held.Fd()), unix.LOCK_EX))
		check(t, unix.FcntlFlock(held.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}))

		var l ledger
		stop, dead := make(chan struct{}), make(chan struct{})
		var wg sync.WaitGroup
		for id := range 2 * workers {
			side := id % 2
			f, err := os.OpenFile(p.path(side, dir, "file"), os.O_RDWR, 0)
			check(t, err)
			wg.Go(func() {
				defer f.Close()
				r, b := newRand(round*10+id), make([]byte, recordSize)
				for n := 1 + round*100_000; ; n++ {
					select {
					case <-stop:
						return
					default:
					}
					block := id + 4*r.IntN(blocks/4) // nobody else writes it
					record(b, block, id, n)
					l.begin(block, n)
					if _, err := f.WriteAt(b, int64(block)*recordSize); err != nil {
						select {
						case <-dead:
							if side == victim {
								return
							}
						case <-time.After(5 * time.Second):
						}
						t.Errorf("round %d: side %d, which was not killed: %v", round, side, err)
						return
					}
					l.end(block, n)
				}
			})
		}
		check(t, eventually(l.confirmed)) // something is to be lost
		time.Sleep(time.Duration(50+rand.IntN(150)) * time.Millisecond)
		check(t, p.mounts[victim].Signal(unix.SIGKILL))
		close(dead)
		time.Sleep(100 * time.Millisecond)
		close(stop)
		wg.Wait()
		_ = held.Close() // it is of a mount that has died
		check(t, p.mounts[victim].Kill())

		other := 1 - victim
		l.check(t, p.path(other, dir, "file"))
		free, err := os.OpenFile(p.path(other, dir, "locked"), os.O_RDWR, 0)
		check(t, err)
		err = eventually(func() error {
			return errors.Join(unix.Flock(int(free.Fd()), unix.LOCK_EX|unix.LOCK_NB),
				unix.FcntlFlock(free.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}))
		})
		if err != nil {
			t.Fatalf("round %d: what the killed side had locked stays so: %v", round, err)
		}
		check(t, free.Close())
		for block := range blocks { // each group can be written
			b := make([]byte, recordSize)
			record(b, block, 0, 0)
			check(t, writeBlock(p.path(other, dir, "file"), b, block))
		}
		check(t, p.mounts[victim].Start())
		checkBlocks(t, p.path(victim, dir, "file"))
	}
}

// eventually calls f until it succeeds, for some seconds.
func eventually(f func() error) error {
	err := f()
	for end := time.Now().Add(10 * time.Second); err != nil && time.Now().Before(end); err = f() {
		pause()
	}
	return err
}

func writeBlock(path string, b []byte, block int) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, int64(block)*recordSize)
	return errors.Join(err, f.Close())
}

// ledger is what was begun and what was confirmed of each block. Each has one writer.
type ledger struct {
	mu         sync.Mutex
	begun, got [blocks]int
}

func (l *ledger) begin(block, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.begun[block] = n
}

func (l *ledger) end(block, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.got[block] = n
}

// confirmed is nil when a write has been confirmed.
func (l *ledger) confirmed() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.got {
		if n != 0 {
			return nil
		}
	}
	return errors.New("nothing is written")
}

// check reads the file: each block is as it was confirmed, or as it was about to become.
func (l *ledger) check(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	check(t, err)
	for block := range blocks {
		_, n, err := parse(b[block*recordSize:][:recordSize], block)
		check(t, err)
		if l.got[block] != 0 && n != l.got[block] && n != l.begun[block] {
			t.Fatal(fmt.Errorf("block %d holds write %d; %d was confirmed, %d begun", block, n, l.got[block], l.begun[block]))
		}
	}
}
