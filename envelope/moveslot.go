package envelope

// MoveSlot writes the record slot src to dst, which is of the same or a larger
// slot size. What is whole stays whole, also where this program does not know its
// version; what is damaged stays as it is, and damaged.
func MoveSlot(dst, src []byte) {
	clear(dst[copy(dst, src):])
	if len(dst) > len(src) && validSlotSize(len(src)) && !IsZero(src) && checksumOK(src) {
		clear(dst[len(src)-TagSize : len(src)])
		putChecksum(dst)
	}
}
