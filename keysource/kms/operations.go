package kms

// Operations returns all operations by name.
func Operations() map[string]Operation {
	const reads, writes = true, false
	all := map[string]Operation{}
	for _, o := range []Operation{
		operation("CancelKeyDeletion", writes, (*Service).CancelKeyDeletion),
		operation("CreateAlias", writes, (*Service).CreateAlias),
		operation("CreateGrant", writes, (*Service).CreateGrant),
		operation("CreateKey", writes, (*Service).CreateKey),
		operation("Decrypt", reads, (*Service).Decrypt),
		operation("DeleteAlias", writes, (*Service).DeleteAlias),
		operation("DeleteImportedKeyMaterial", writes, (*Service).DeleteImportedKeyMaterial),
		operation("DescribeKey", reads, (*Service).DescribeKey),
		operation("DisableKey", writes, (*Service).DisableKey),
		operation("DisableKeyRotation", writes, (*Service).DisableKeyRotation),
		operation("EnableKey", writes, (*Service).EnableKey),
		operation("EnableKeyRotation", writes, (*Service).EnableKeyRotation),
		operation("Encrypt", reads, (*Service).Encrypt),
		operation("GenerateDataKey", reads, (*Service).GenerateDataKey),
		operation("GenerateDataKeyWithoutPlaintext", reads, (*Service).GenerateDataKeyWithoutPlaintext),
		operation("GenerateRandom", reads, (*Service).GenerateRandom),
		operation("GetKeyLastUsage", reads, (*Service).GetKeyLastUsage),
		operation("GetKeyPolicy", reads, (*Service).GetKeyPolicy),
		operation("GetKeyRotationStatus", reads, (*Service).GetKeyRotationStatus),
		operation("GetParametersForImport", reads, (*Service).GetParametersForImport),
		operation("ImportKeyMaterial", writes, (*Service).ImportKeyMaterial),
		operation("ListAliases", reads, (*Service).ListAliases),
		operation("ListGrants", reads, (*Service).ListGrants),
		operation("ListKeyPolicies", reads, (*Service).ListKeyPolicies),
		operation("ListKeyRotations", reads, (*Service).ListKeyRotations),
		operation("ListKeys", reads, (*Service).ListKeys),
		operation("ListResourceTags", reads, (*Service).ListResourceTags),
		operation("ListRetirableGrants", reads, (*Service).ListRetirableGrants),
		operation("PutKeyPolicy", writes, (*Service).PutKeyPolicy),
		operation("ReEncrypt", reads, (*Service).ReEncrypt),
		operation("RetireGrant", writes, (*Service).RetireGrant),
		operation("RevokeGrant", writes, (*Service).RevokeGrant),
		operation("RotateKeyOnDemand", writes, (*Service).RotateKeyOnDemand),
		operation("ScheduleKeyDeletion", writes, (*Service).ScheduleKeyDeletion),
		operation("TagResource", writes, (*Service).TagResource),
		operation("UntagResource", writes, (*Service).UntagResource),
		operation("UpdateAlias", writes, (*Service).UpdateAlias),
		operation("UpdateKeyDescription", writes, (*Service).UpdateKeyDescription),
	} {
		all[o.Name] = o
	}
	return all
}
