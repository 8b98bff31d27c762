package vault

import (
	"testing"
	"time"

	"kmsfs/envelope"
)

// BenchmarkDue is what each read and write pays for a key that is not to be asked for again yet.
func BenchmarkDue(b *testing.B) {
	f := &file{v: &Vault{began: time.Now(), confirmEvery: time.Hour}, form: formGroups, key: &envelope.FileKey{}}
	f.v.elapsed = func() time.Duration { return time.Since(f.v.began) }
	f.grant = f.v.granted()
	for b.Loop() {
		if f.due(lockRead, false) {
			b.Fatal("due")
		}
	}
}

// HoldsKey says whether the data key or any plaintext of n is in memory.
func HoldsKey(n *Node) bool {
	f := n.openFile()
	if f == nil {
		return false
	}
	defer f.release()
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.key != nil || f.inline != nil || len(f.groups) > 0
}
