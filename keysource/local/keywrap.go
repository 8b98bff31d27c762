package local

import (
	"crypto/aes"
	"crypto/subtle"
	"encoding/binary"
	"errors"
)

// keyWrapBlock is the unit of AES key wrap in bytes.
const keyWrapBlock = 8

// keyWrapMagic begins the initial value of AES key wrap with padding, RFC 5649 section 3.
const keyWrapMagic = 0xa65959a6

// errKeyWrap is for bytes that AES key wrap does not open.
var errKeyWrap = errors.New("key does not unwrap")

// unwrapKey is the unwrapping of AES key wrap with padding, RFC 5649 section 4.2. The caller wipes the answer.
func unwrapKey(kek, wrapped []byte) ([]byte, error) {
	block, err := aes.NewCipher(kek)
	if err != nil {
		return nil, errKeyWrap // a key of no size of AES
	}
	n := len(wrapped)/keyWrapBlock - 1
	if len(wrapped)%keyWrapBlock != 0 || n < 1 || n > 1024 {
		return nil, errKeyWrap
	}
	b := append([]byte(nil), wrapped...) // the initial value, then the blocks
	var buf [2 * keyWrapBlock]byte
	defer clear(buf[:])
	if n == 1 {
		block.Decrypt(b, b)
	} else {
		for t := 6 * n; t >= 1; t-- {
			i := (t-1)%n + 1
			copy(buf[:keyWrapBlock], b[:keyWrapBlock])
			binary.BigEndian.PutUint64(buf[:], binary.BigEndian.Uint64(buf[:])^uint64(t))
			copy(buf[keyWrapBlock:], b[i*keyWrapBlock:])
			block.Decrypt(buf[:], buf[:])
			copy(b[:keyWrapBlock], buf[:])
			copy(b[i*keyWrapBlock:], buf[keyWrapBlock:])
		}
	}
	return checkKeyWrap(b)
}

// checkKeyWrap checks the initial value and the padding of what was unwrapped, in a time that tells nothing of either,
// and returns the key. b is wiped on failure.
func checkKeyWrap(b []byte) ([]byte, error) {
	size := binary.BigEndian.Uint32(b[4:])
	padded := len(b) - keyWrapBlock
	good := subtle.ConstantTimeEq(int32(binary.BigEndian.Uint32(b)), int32(-0x100000000+keyWrapMagic))
	// The size lies in the last block.
	inBounds := size <= uint32(padded) && size > uint32(padded-keyWrapBlock)
	if !inBounds {
		size, good = uint32(padded), 0
	}
	var padding byte
	for _, c := range b[keyWrapBlock+int(size):] {
		padding |= c
	}
	if good&subtle.ConstantTimeByteEq(padding, 0) != 1 {
		clear(b)
		return nil, errKeyWrap
	}
	return b[keyWrapBlock : keyWrapBlock+int(size)], nil
}
