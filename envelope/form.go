package envelope

// IsSealedName reports whether an entry has the form of a sealed name, also of a long one: what can be told without a key.
func IsSealedName(entry string) bool {
	var buf [TagSize + paddedMax]byte
	if len(entry) > entryDirectMax {
		return false
	}
	n, ok := decode64(newBase64(), buf[:], entry)
	if IsLongEntry(entry) {
		return ok && n == TagSize
	}
	return ok && len(entry) >= entryDirectMin && n%namePad == 0
}

// IsSealedTarget reports whether what a stored symlink points to has the form of a sealed target.
func IsSealedTarget(stored string) bool {
	if len(stored) > targetB64Max {
		return false
	}
	n, ok := decode64(newBase64(), make([]byte, len(stored)), stored)
	return ok && n > targetOverhead
}
