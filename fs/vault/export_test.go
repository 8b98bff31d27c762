package vault

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
