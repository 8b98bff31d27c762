package local

import (
	"fmt"
	"io"
)

// sealStore returns the store file that holds sn under storeKey, and its header: sn.header with a new body. The
// generation and the lock are the caller's to set.
func sealStore(sn *snapshot, storeKey *[secretSize]byte, rand io.Reader) ([]byte, header, error) {
	body, err := marshalBody(sn)
	defer clear(body)
	if err != nil {
		return nil, header{}, err
	}
	if len(body)+tagSize > maxBodySize {
		return nil, header{}, fmt.Errorf("key store would be over %d bytes", maxBodySize)
	}
	h := sn.header
	if _, err := io.ReadFull(rand, h.bodySalt[:]); err != nil {
		return nil, header{}, fmt.Errorf("random bytes: %w", err)
	}
	h.bodySize = uint32(len(body) + tagSize)
	head := h.marshal()
	key := derive(contextBody, storeKey[:], h.bodySalt[:])
	defer clear(key[:])
	b := sealOnce(&key, append(make([]byte, 0, headerSize+len(body)+tagSize), head...), body, head)
	// What cannot be read again must never reach the disk.
	again, err := openStore(b, storeKey)
	if err != nil {
		return nil, header{}, fmt.Errorf("sealed key store does not open: %w", err)
	}
	again.wipeUnless(nil)
	return b, h, nil
}

// openStore reads the store file b under storeKey.
func openStore(b []byte, storeKey *[secretSize]byte) (*snapshot, error) {
	h, err := parseHeader(b)
	if err != nil {
		return nil, err
	}
	if len(b) != headerSize+int(h.bodySize) {
		return nil, damaged("the file has %d bytes instead of %d", len(b), headerSize+int(h.bodySize))
	}
	key := derive(contextBody, storeKey[:], h.bodySalt[:])
	defer clear(key[:])
	body := make([]byte, 0, h.bodySize)
	defer func() { clear(body[:cap(body)]) }()
	body, err = openOnce(&key, body, b[headerSize:], b[:headerSize])
	if err != nil {
		return nil, damaged("the file was changed, or belongs to another store key")
	}
	sn, err := unmarshalBody(body)
	if err != nil {
		return nil, err
	}
	sn.header = h
	return sn, nil
}
