package envelope

import (
	"crypto/ed25519"
)

// manifestPrefix begins what is signed of a manifest (FORMAT.md, Manifest).
const manifestPrefix = "kmsfs 2026 v1 manifest\n"

// ManifestSigner returns the public key that the manifests of the vault are signed with.
func (k *VolumeKeys) ManifestSigner() ed25519.PublicKey {
	key := ed25519.NewKeyFromSeed(k.manifest[:])
	defer clear(key)
	return append(ed25519.PublicKey(nil), key[KeySize:]...)
}

// SignManifest signs a manifest, given by the BLAKE3 of all that stands before the signature.
func (k *VolumeKeys) SignManifest(digest [32]byte) []byte {
	if k.manifest == [KeySize]byte{} {
		panic("envelope: use of a wiped key")
	}
	key := ed25519.NewKeyFromSeed(k.manifest[:])
	defer clear(key)
	return ed25519.Sign(key, append([]byte(manifestPrefix), digest[:]...))
}

// VerifyManifest says whether signature is that of signer, a public key of 32 bytes, for a manifest of that digest.
func VerifyManifest(signer ed25519.PublicKey, digest [32]byte, signature []byte) bool {
	return len(signer) == ed25519.PublicKeySize && ed25519.Verify(signer, append([]byte(manifestPrefix), digest[:]...), signature)
}
