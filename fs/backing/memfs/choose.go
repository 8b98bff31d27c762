package memfs

import (
	"math/rand/v2"
)

// Durable is the Policy.Choose that loses whatever was not synced.
func Durable(n int) int { return 0 }

// Newest is the Policy.Choose that loses nothing that has a name.
func Newest(n int) int { return n - 1 }

// Random returns a Policy.Choose that follows from the seed alone, for one Crash. Some seeds lose nearly all and some
// nearly nothing, since many bugs need one thing to be missing (or there) out of many.
func Random(seed uint64) func(n int) int {
	r := rand.New(rand.NewPCG(seed, 0x6b6d736673))
	durable := []float64{0.5, 0.5, 0.1, 0.9}[r.IntN(4)]
	return func(n int) int {
		switch {
		case r.IntN(4) == 0:
			return r.IntN(n)
		case r.Float64() < durable:
			return 0
		}
		return n - 1
	}
}

// Enumerator goes through all answers that Policy.Choose can give, so that every state after a crash is seen once:
//
//	for e := new(memfs.Enumerator); e.Next(); {
//		check(fs.Crash(memfs.Policy{Choose: e.Choose}))
//	}
//
// There may be very many; count and stop. The zero value stands before the first. Not safe for concurrent use.
type Enumerator struct {
	path    []choice
	at      int
	started bool
}

type choice struct{ i, n int }

// Next moves on to the next state and reports whether there is one.
func (e *Enumerator) Next() bool {
	e.at = 0
	if !e.started {
		e.started = true
		return true
	}
	for len(e.path) > 0 {
		last := &e.path[len(e.path)-1]
		if last.i+1 < last.n {
			last.i++
			return true
		}
		e.path = e.path[:len(e.path)-1]
	}
	return false
}

// Choose is the Policy.Choose of the present state; of one Crash only.
func (e *Enumerator) Choose(n int) int {
	if e.at == len(e.path) {
		e.path = append(e.path, choice{0, n})
	}
	e.at++
	return e.path[e.at-1].i
}
