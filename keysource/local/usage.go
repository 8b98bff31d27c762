package local

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"kmsfs/keysource"
)

// When each CMK was last used, in memory and, at most once in usageInterval, in a file of its own: the store itself does
// not change by being used. What a crash loses is at most the uses of the last interval.

// UsageName is the sealed file with the last use of each CMK.
const UsageName = "usage"

const (
	usageInterval = time.Minute
	usageMagic    = "kmsfs-us\x00\x01" // the last two bytes are the version
	usageHeader   = len(usageMagic) + saltSize
	maxUsageSize  = 64 << 20
	usageWait     = time.Second // for other processes, when the store is closed
	// usageGrain is how fine the time of uses without ids is, so that a busy store does not allocate at each.
	usageGrain = time.Second
)

// Use is one successful cryptographic use of a CMK.
type Use struct {
	// Operation is its name in AWS KMS.
	Operation string `json:"operation"`
	// Time is when it was.
	Time time.Time `json:"time"`
	// EventID and RequestID are those of its audit record and request, where a KMS server did it.
	EventID   string `json:"event,omitempty"`
	RequestID string `json:"request,omitempty"`
}

// usage is what was used when. The zero value is ready.
type usage struct {
	last sync.Map // of *atomic.Pointer[Use] by uuid
	// next is when to write the file next, in nanoseconds since 1970; 0 is that nothing is to be written.
	next atomic.Int64
	mu   sync.Mutex // held by who reads or writes the file

	failed bool // guarded by mu: writing the file has failed
}

// usageJSON is the content of the file.
type usageJSON struct {
	Since time.Time      `json:"since"`
	Keys  map[string]Use `json:"keys"`
}

// used notes a use of k, of which no ids are known.
func (s *Store) used(k *cmk, op string) {
	p := s.usage.of(k.id)
	now := s.now()
	if old := p.Load(); old == nil || old.Operation != op || now.Sub(old.Time).Abs() >= usageGrain {
		p.Store(&Use{Operation: op, Time: now})
		s.usage.next.CompareAndSwap(0, now.Add(usageInterval).UnixNano())
	}
}

// NoteUse says more of a use that the store has just noted: what a KMS server knows of it.
func (s *Store) NoteUse(keyID string, u Use) {
	if id, ok := parseUUID(keyID); ok {
		s.usage.of(id).Store(&u)
		s.usage.next.CompareAndSwap(0, u.Time.Add(usageInterval).UnixNano())
	}
}

// of is the place for the last use of a CMK.
func (u *usage) of(id uuid) *atomic.Pointer[Use] {
	if p, ok := u.last.Load(id); ok {
		return p.(*atomic.Pointer[Use])
	}
	p, _ := u.last.LoadOrStore(id, new(atomic.Pointer[Use]))
	return p.(*atomic.Pointer[Use])
}

// LastUse returns the last use of a CMK by any process, the zero Use where there is none on record, and since when there
// is a record. Uses by another process appear within a minute.
func (s *Store) LastUse(ctx context.Context, key keysource.KeyRef) (last Use, since time.Time, err error) {
	var id uuid
	var created time.Time
	err = s.with(ctx, func(sn *snapshot) error {
		k, err := sn.find("GetKeyLastUsage", key)
		if err == nil {
			id, created = k.id, k.created
		}
		return err
	})
	if err != nil {
		return Use{}, time.Time{}, err
	}
	s.usage.mu.Lock()
	doc, err := s.readUsage()
	s.usage.mu.Unlock()
	if err != nil {
		return Use{}, time.Time{}, fmt.Errorf("GetKeyLastUsage: %w", err)
	}
	last = doc.Keys[id.String()]
	if u := s.usage.of(id).Load(); u != nil && !u.Time.Before(last.Time) {
		last = *u
	}
	if since = doc.Since; since.Before(created) {
		since = created
	}
	return last, since, nil
}
