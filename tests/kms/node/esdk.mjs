// The AWS Encryption SDK for JavaScript with a KMS server of kmsfs as its KMS: envelope encryption as AWS does it.
import assert from 'node:assert/strict'
import { pipeline } from 'node:stream/promises'
import { Readable, Writable } from 'node:stream'
import {
  buildClient, CommitmentPolicy, getLocalCryptographicMaterialsCache, KmsKeyringNode, NodeCachingMaterialsManager
} from '@aws-crypto/client-node'
import { KMS } from '@aws-sdk/client-kms'

const { encrypt, decrypt, encryptStream, decryptStream } = buildClient(CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT)
const regions = new Set()
const clientProvider = (region) => {
  regions.add(region)
  return new KMS({ endpoint: process.env.KMS_ENDPOINT, region, maxAttempts: 1 })
}
const kms = clientProvider(process.env.AWS_REGION)
const [first, second] = await Promise.all([0, 1].map(async () => (await kms.createKey({})).KeyMetadata.Arn))
const keyring = new KmsKeyringNode({ generatorKeyId: first, keyIds: [second], clientProvider })
const encryptionContext = { stage: 'demo', purpose: 'kmsfs' }
const plaintext = Buffer.from('meet at noon')

const { result } = await encrypt(keyring, plaintext, { encryptionContext })
const opened = await decrypt(keyring, result)
assert.deepEqual(opened.plaintext, plaintext)
assert.equal(opened.messageHeader.encryptionContext.purpose, 'kmsfs')
assert.equal(opened.messageHeader.encryptedDataKeys.length, 2)
assert.deepEqual([...regions], [process.env.AWS_REGION])

// Either CMK opens it, and none does when both are disabled.
await kms.disableKey({ KeyId: first })
assert.deepEqual((await decrypt(keyring, result)).plaintext, plaintext)
assert.deepEqual((await decrypt(new KmsKeyringNode({ keyIds: [second], clientProvider }), result)).plaintext, plaintext)
await assert.rejects(decrypt(new KmsKeyringNode({ keyIds: [first], clientProvider }), result))
await kms.disableKey({ KeyId: second })
await assert.rejects(decrypt(keyring, result))
await Promise.all([first, second].map((KeyId) => kms.enableKey({ KeyId })))

// Old key material opens for ever.
await kms.rotateKeyOnDemand({ KeyId: first })
assert.deepEqual((await decrypt(keyring, result)).plaintext, plaintext)

// A message that was changed does not open.
const changed = Buffer.from(result)
changed[changed.length - 1] ^= 1
await assert.rejects(decrypt(keyring, changed))

// Many messages with the data key cached, and a stream of several frames.
const cache = getLocalCryptographicMaterialsCache(100)
const cached = new NodeCachingMaterialsManager({ backingMaterials: keyring, cache, maxAge: 60000, maxMessagesEncrypted: 50 })
for (let i = 0; i < 100; i++) {
  const { result } = await encrypt(cached, Buffer.from(`message ${i}`), { encryptionContext, plaintextLength: 20 })
  assert.equal((await decrypt(cached, result)).plaintext.toString(), `message ${i}`)
}
const large = Buffer.alloc(1 << 20, 'kmsfs')
const parts = []
await pipeline(Readable.from([large]), encryptStream(keyring, { encryptionContext }), decryptStream(keyring),
  new Writable({ write (part, _, done) { parts.push(part); done() } }))
assert.ok(Buffer.concat(parts).equals(large))
console.log('ok')
