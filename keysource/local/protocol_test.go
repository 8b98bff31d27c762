package local

import (
	"fmt"
	"strings"
	"testing"

	"kmsfs/keysource"
)

// TestProtocolDocument checks the numbers in PROTOCOL.md against the code.
func TestProtocolDocument(t *testing.T) {
	text := string(mustRead(t, "../PROTOCOL.md"))
	for _, want := range []string{
		contextMaterialID, contextBlob, contextKeyFile, contextPassphrase, contextBody, keyFilePrefix,
		contextImportToken, contextUsage,
		fmt.Sprintf("| 0 | %d | `kfi`", tokenKeyID),
		fmt.Sprintf("| %d | 16 | key id, the bytes of the UUID", tokenKeyID),
		fmt.Sprintf("| %d | %d | salt, random", tokenSalt, saltSize),
		fmt.Sprintf("AAD = bytes 0..%d)\n\nThe expiry", tokenSealed-1),
		fmt.Sprintf("document, AAD = bytes 0..%d", usageHeader-1),
		"0 RSAES_OAEP_SHA_256, 1 RSAES_OAEP_SHA_1,\n2 RSA_AES_KEY_WRAP_SHA_256, 3 RSA_AES_KEY_WRAP_SHA_1",
		fmt.Sprintf("| %d | %d | key id,", blobKeyID, len(uuid{})),
		fmt.Sprintf("| %d | %d | key material id", blobMaterialID, materialIDSize),
		fmt.Sprintf("| %d | %d | salt, random", blobSalt, saltSize),
		fmt.Sprintf("| %d | n | ciphertext", blobHeaderSize),
		fmt.Sprintf("AAD = bytes 0..%d ||", blobHeaderSize-1),
		fmt.Sprintf("the wrapping of 32 bytes has %d", BlobOverhead+keysource.DataKeySize),
		fmt.Sprintf("| 0 | %d | `%s`", len(fileMagic), fileMagic),
		fmt.Sprintf("| %d | 2 | version, %d", offVersion, fileVersion),
		fmt.Sprintf("| %d | 2 | size of the header, %d", offHeaderSize, headerSize),
		fmt.Sprintf("| %d | 4 | features", offFeatures),
		fmt.Sprintf("| %d | 16 | store id", offStoreID),
		fmt.Sprintf("| %d | 8 | generation", offGeneration),
		fmt.Sprintf("| %d | 1 | master key: %d key file, %d passphrase", offMaster, masterKeyFile, masterPassphrase),
		fmt.Sprintf("| %d | 4 | argon2id memory", offArgon2),
		fmt.Sprintf("| %d | %d | master salt", offMasterSalt, saltSize),
		fmt.Sprintf("| %d | %d | store key, sealed", offWrapped, wrappedSize),
		fmt.Sprintf("| %d | %d | body salt", offBodySalt, saltSize),
		fmt.Sprintf("| %d | 4 | size of the sealed body", offBodySize),
		fmt.Sprintf("| %d | | sealed body", headerSize),
		fmt.Sprintf("AAD = bytes 0..%d || %d..%d || %d..%d", offVersion-1, offStoreID, offGeneration-1, offMaster, offWrapped-1),
		fmt.Sprintf("at most %d MiB", maxBodySize>>20),
		fmt.Sprintf("KiB times\npasses at most %d", maxArgon2Work),
		fmt.Sprintf("| 0 | %d | `%s`", len(documentMagic), documentMagic), contextDocument,
		fmt.Sprintf("| %d | 2 | version, %d", offDocVersion, documentVersion),
		fmt.Sprintf("| %d | 2 | features", offDocFeatures),
		fmt.Sprintf("| %d | 16 | store id", offDocStoreID),
		fmt.Sprintf("| %d | 8 | generation", offDocGeneration),
		fmt.Sprintf("| %d | %d | salt, random, new", offDocSalt, saltSize),
		fmt.Sprintf("| %d | | sealed content, to the end of the file, at most %d MiB and %d bytes", documentHeader, MaxDocumentSize>>20, tagSize),
		fmt.Sprintf("AAD = bytes 0..%d || file name", documentHeader-1),
		fmt.Sprintf("the canonical form has at most %d bytes", keysource.MaxContextSize),
	} {
		if !strings.Contains(text, want) {
			t.Errorf("PROTOCOL.md does not say %q", want)
		}
	}
	a := DefaultArgon2()
	if a.MemoryKiB != 64<<10 || a.Time != 3 || a.Threads != 4 {
		t.Errorf("the default of argon2id is not that of PROTOCOL.md: %+v", a)
	}
}
