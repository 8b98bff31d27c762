package vault

import (
	"context"
	"errors"
	"sync"
	"time"

	"kmsfs/envelope"
)

// zonesAtHand is of how many encryption zones keys are made ahead at once.
const zonesAtHand = 64

// pools is a pool for the vault's own CMK, and one for that of each encryption zone in use.
type pools struct {
	v    *Vault
	main pool

	mu     sync.Mutex // a leaf
	zones  map[string]*pool
	used   map[string]time.Time
	closed bool
	wg     sync.WaitGroup // pools being closed
}

func (s *pools) start(v *Vault) {
	s.v, s.zones, s.used = v, map[string]*pool{}, map[string]time.Time{}
	s.main.start(v, "")
}

// take returns a data key of the CMK named by key, "" for the vault's own.
func (s *pools) take(ctx context.Context, key string) (bound, error) {
	if key == "" {
		return s.main.take(ctx)
	}
	for {
		b, err := s.of(key).take(ctx)
		if !errors.Is(err, errPoolClosed) || s.isClosed() {
			return b, err
		} // else it had to make room meanwhile
	}
}

func (s *pools) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// of returns the pool of a zone's CMK. That of the one that was not used for longest makes room for it.
func (s *pools) of(key string) *pool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.zones[key]
	if p == nil && s.closed {
		p = &pool{}
		p.start(s.v, key)
		p.closed = true
		return p
	}
	if p == nil {
		if len(s.zones) >= zonesAtHand {
			oldest := ""
			for k, t := range s.used {
				if oldest == "" || t.Before(s.used[oldest]) {
					oldest = k
				}
			}
			old := s.zones[oldest]
			delete(s.zones, oldest)
			delete(s.used, oldest)
			s.wg.Go(old.close)
		}
		p = &pool{}
		p.start(s.v, key)
		s.zones[key] = p
	}
	s.used[key] = s.v.now()
	return p
}

// all returns the pools there are.
func (s *pools) all() []*pool {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := []*pool{&s.main}
	for _, p := range s.zones {
		all = append(all, p)
	}
	return all
}

// put gives back a key that encrypted nothing.
func (s *pools) put(b bound) {
	if b.from != nil {
		b.from.put(b)
		return
	}
	b.key.Wipe()
	s.v.keeper.erase(b.loc)
}

// drain gives up all keys that were made ahead.
func (s *pools) drain() {
	for _, p := range s.all() {
		p.drain()
	}
}

// writes says whether a table is one that records are appended to.
func (s *pools) writes(table uint64) bool {
	for _, p := range s.all() {
		if p.table.Table() == table {
			return true
		}
	}
	return false
}

// close stops all pools.
func (s *pools) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	for _, p := range s.all() {
		p.close()
	}
	s.wg.Wait()
}

// label is what a keysource has wrapped a data key with.
type label struct{ arn, material string }

func labelOf(r *envelope.Record) label {
	return label{r.Wrappings[0].KeyARN, r.Wrappings[0].KeyMaterialID}
}
