package local

import "kmsfs/keysource"

// Account returns the account and region of the store's ARNs, which never change.
func (s *Store) Account() (account, region string, err error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return "", "", keysource.ErrClosed
	}
	return s.snap.account, s.snap.region, nil
}
