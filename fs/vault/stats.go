package vault

// Stats are counters of an open vault.
type Stats struct {
	// KeysAtHand are data keys made ahead of need, KeysComing those under way.
	KeysAtHand, KeysComing int
}

// Stats returns the counters. Each is right by itself; together they are not of one moment.
func (v *Vault) Stats() Stats {
	var s Stats
	for _, p := range v.pools.all() {
		p.mu.Lock()
		s.KeysAtHand += len(p.ready)
		s.KeysComing += p.coming()
		p.mu.Unlock()
	}
	return s
}
