package vault

// Purge gives up the data keys that were made ahead of need and erases their records: who creates a file next waits for the
// keysource.
func (v *Vault) Purge() {
	v.pools.drain()
}
