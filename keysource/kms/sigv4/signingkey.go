package sigv4

import (
	"crypto/hmac"
	"crypto/sha256"
	"sync"
)

// maxSigningKeys is how many derived keys are kept.
const maxSigningKeys = 4096

// scopeKey names a signing key. Region and service are always the verifier's own.
type scopeKey struct{ accessKeyID, date string }

// signingKeys keeps the keys that are derived from a secret once a day. The secret of an access key never changes, so
// that an entry can be old but not wrong; whether the access key still exists is asked at each request. It is safe for
// concurrent use.
type signingKeys struct {
	mu   sync.RWMutex
	keys map[scopeKey][32]byte
}

// get returns the signing key of an access key on a day, derived where it is not known yet.
func (s *signingKeys) get(k scopeKey, secret, region, service string) [32]byte {
	s.mu.RLock()
	key, ok := s.keys[k]
	s.mu.RUnlock()
	if ok {
		return key
	}
	key = signingKey(secret, k.date, region, service)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.keys) >= maxSigningKeys || s.keys == nil {
		s.keys = map[scopeKey][32]byte{}
	}
	s.keys[k] = key
	return key
}

// signingKey derives the key that signs on a day.
func signingKey(secret, date, region, service string) (key [32]byte) {
	first := append([]byte("AWS4"), secret...)
	defer clear(first)
	key = sign(first, date)
	for _, part := range []string{region, service, "aws4_request"} {
		key = sign(key[:], part)
	}
	return key
}

// sign is HMAC-SHA-256.
func sign(key []byte, text string) (sum [32]byte) {
	h := hmac.New(sha256.New, key)
	_, _ = h.Write([]byte(text))
	h.Sum(sum[:0])
	return sum
}
