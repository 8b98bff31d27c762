// The AWS SDK for JavaScript against a KMS server of kmsfs. Every step must hold, or the process ends with an error.
import assert from 'node:assert/strict'
import {
  AlreadyExistsException, CancelKeyDeletionCommand, CreateAliasCommand, CreateGrantCommand, CreateKeyCommand,
  DecryptCommand, DescribeKeyCommand, DisabledException, DisableKeyCommand, EnableKeyCommand, EnableKeyRotationCommand,
  EncryptCommand, GenerateDataKeyCommand, GenerateDataKeyWithoutPlaintextCommand, GenerateRandomCommand,
  GetKeyPolicyCommand, GetKeyRotationStatusCommand, IncorrectKeyException, InvalidCiphertextException, KMSClient,
  KMSInvalidStateException, ListAliasesCommand, ListGrantsCommand, ListKeyRotationsCommand, ListKeysCommand,
  ListResourceTagsCommand, NotFoundException, paginateListKeys, ReEncryptCommand, RotateKeyOnDemandCommand,
  ScheduleKeyDeletionCommand, TagResourceCommand
} from '@aws-sdk/client-kms'

const client = new KMSClient({ endpoint: process.env.KMS_ENDPOINT, region: process.env.AWS_REGION })
const call = (command) => client.send(command)
const fails = (command, type) => assert.rejects(call(command), (err) => {
  assert.ok(err instanceof type, `${err.name} is not ${type.name}`)
  assert.equal(err.$metadata.httpStatusCode, 400)
  assert.ok(err.$metadata.requestId)
  return true
})

const made = await call(new CreateKeyCommand({ Description: 'of JavaScript', Tags: [{ TagKey: 'a', TagValue: 'ä' }] }))
const KeyId = made.KeyMetadata.KeyId
assert.ok(made.KeyMetadata.CreationDate instanceof Date)
const other = (await call(new CreateKeyCommand({}))).KeyMetadata.Arn
await call(new CreateAliasCommand({ AliasName: 'alias/js', TargetKeyId: KeyId }))
await fails(new CreateAliasCommand({ AliasName: 'alias/js', TargetKeyId: other }), AlreadyExistsException)
await fails(new DescribeKeyCommand({ KeyId: 'alias/none' }), NotFoundException)

const EncryptionContext = { purpose: 'test', 'ключ': '值 "\\' }
const dataKey = await call(new GenerateDataKeyCommand({ KeyId: 'alias/js', KeySpec: 'AES_256', EncryptionContext }))
assert.equal(dataKey.Plaintext.length, 32)
assert.equal(dataKey.KeyId, made.KeyMetadata.Arn)
const opened = await call(new DecryptCommand({ CiphertextBlob: dataKey.CiphertextBlob, EncryptionContext, KeyId: 'alias/js' }))
assert.deepEqual(Buffer.from(opened.Plaintext), Buffer.from(dataKey.Plaintext))
await fails(new DecryptCommand({ CiphertextBlob: dataKey.CiphertextBlob }), InvalidCiphertextException)
await fails(new DecryptCommand({ CiphertextBlob: dataKey.CiphertextBlob, EncryptionContext, KeyId: other }), IncorrectKeyException)
const blind = await call(new GenerateDataKeyWithoutPlaintextCommand({ KeyId, NumberOfBytes: 64 }))
assert.equal(blind.Plaintext, undefined)
assert.equal((await call(new GenerateRandomCommand({ NumberOfBytes: 100 }))).Plaintext.length, 100)

const sealed = await call(new EncryptCommand({ KeyId, Plaintext: Buffer.alloc(4096, 7) }))
assert.equal((await call(new DecryptCommand({ CiphertextBlob: sealed.CiphertextBlob }))).Plaintext.length, 4096)
await assert.rejects(call(new EncryptCommand({ KeyId, Plaintext: Buffer.alloc(4097) })), { name: 'ValidationException' })

await call(new RotateKeyOnDemandCommand({ KeyId }))
await call(new EnableKeyRotationCommand({ KeyId, RotationPeriodInDays: 90 }))
assert.equal((await call(new GetKeyRotationStatusCommand({ KeyId }))).RotationPeriodInDays, 90)
assert.ok((await call(new ListKeyRotationsCommand({ KeyId }))).Rotations.length >= 1)
const moved = await call(new ReEncryptCommand({ CiphertextBlob: dataKey.CiphertextBlob, SourceEncryptionContext: EncryptionContext,
  DestinationKeyId: KeyId, DestinationEncryptionContext: { b: 'c' } }))
assert.notEqual(moved.SourceKeyMaterialId, moved.DestinationKeyMaterialId)
const again = await call(new DecryptCommand({ CiphertextBlob: moved.CiphertextBlob, EncryptionContext: { b: 'c' } }))
assert.deepEqual(Buffer.from(again.Plaintext), Buffer.from(dataKey.Plaintext))
assert.equal(again.KeyMaterialId, moved.DestinationKeyMaterialId)

await call(new TagResourceCommand({ KeyId, Tags: [{ TagKey: 'team', TagValue: 'x' }] }))
assert.equal((await call(new ListResourceTagsCommand({ KeyId }))).Tags.length, 2)
await call(new CreateGrantCommand({ KeyId, GranteePrincipal: process.env.GRANTEE, Operations: ['Decrypt'] }))
assert.equal((await call(new ListGrantsCommand({ KeyId }))).Grants.length, 1)
JSON.parse((await call(new GetKeyPolicyCommand({ KeyId }))).Policy)
assert.ok((await call(new ListAliasesCommand({ KeyId }))).Aliases.some((a) => a.AliasName === 'alias/js'))
let keys = 0
for await (const page of paginateListKeys({ client, pageSize: 1 }, {})) keys += page.Keys.length
assert.equal(keys, (await call(new ListKeysCommand({}))).Keys.length)

await call(new DisableKeyCommand({ KeyId }))
await fails(new GenerateDataKeyCommand({ KeyId, KeySpec: 'AES_256' }), DisabledException)
await call(new EnableKeyCommand({ KeyId }))
await call(new ScheduleKeyDeletionCommand({ KeyId, PendingWindowInDays: 7 }))
await fails(new EncryptCommand({ KeyId, Plaintext: Buffer.from('x') }), KMSInvalidStateException)
await call(new CancelKeyDeletionCommand({ KeyId }))
assert.equal((await call(new DescribeKeyCommand({ KeyId }))).KeyMetadata.KeyState, 'Disabled')

const stranger = new KMSClient({ endpoint: process.env.KMS_ENDPOINT, region: process.env.AWS_REGION,
  credentials: { accessKeyId: 'AKIANOBODY', secretAccessKey: 'x' } })
await assert.rejects(stranger.send(new ListKeysCommand({})), { name: 'UnrecognizedClientException' })
console.log('ok')
