package vault

import (
	"sync/atomic"

	"kmsfs/fs/vault/bug"
)

// Stats are counters of an open vault.
type Stats struct {
	// KeysAtHand are data keys made ahead of need, KeysComing those under way.
	KeysAtHand, KeysComing int
	// KeysMade counts data keys that were made, KeyFailures those that could not be.
	KeysMade, KeyFailures uint64
	// AheadFetched counts data keys that were decrypted before they were asked for, AheadUsed those that then were.
	AheadFetched, AheadUsed uint64
	// OpenFiles and OpenDirs are the stored files and directories that are open; Nodes what the kernel knows.
	OpenFiles, OpenDirs, Nodes int
	// JournalBytes is what stands in the journal and is not yet in its place.
	JournalBytes int64
	// Panics counts the bugs that deferred work has met.
	Panics uint64
}

// counts are the counters that grow.
type counts struct {
	keysMade, keyFailures, aheadFetched, aheadUsed, panics atomic.Uint64
}

// Stats returns the counters. Each is right by itself; together they are not of one moment.
func (v *Vault) Stats() Stats {
	s := Stats{KeysMade: v.counts.keysMade.Load(), KeyFailures: v.counts.keyFailures.Load(),
		AheadFetched: v.counts.aheadFetched.Load(), AheadUsed: v.counts.aheadUsed.Load(),
		Panics: v.counts.panics.Load()}
	for _, p := range v.pools.all() {
		p.mu.Lock()
		s.KeysAtHand += len(p.ready)
		s.KeysComing += p.todo + p.calls + len(p.made)
		p.mu.Unlock()
	}
	v.files.mu.Lock()
	s.OpenFiles = len(v.files.at)
	v.files.mu.Unlock()
	v.dirs.mu.Lock()
	s.OpenDirs = v.dirs.lru.Len()
	v.dirs.mu.Unlock()
	v.nodes.mu.RLock()
	s.Nodes = len(v.nodes.byID)
	v.nodes.mu.RUnlock()
	v.journal.mu.Lock()
	for _, seg := range v.journal.segs {
		if seg.used {
			s.JournalBytes += seg.pos
		}
	}
	v.journal.mu.Unlock()
	return s
}

// guarded is bug.Guard of deferred work, which counts what has panicked.
func (v *Vault) guarded(f func() error) error {
	return bug.Guard(v.log, func() error {
		panics := true
		defer func() {
			if panics {
				v.counts.panics.Add(1)
			}
		}()
		err := f()
		panics = false
		return err
	})
}
