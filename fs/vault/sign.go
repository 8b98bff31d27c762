package vault

import "crypto/ed25519"

// ManifestSigner returns the public key that manifests of the vault are signed with.
func (v *Vault) ManifestSigner() ed25519.PublicKey { return v.keys.ManifestSigner() }

// SignManifest signs a manifest, given by the BLAKE3 of all that stands before the signature.
func (v *Vault) SignManifest(digest [32]byte) []byte { return v.keys.SignManifest(digest) }
