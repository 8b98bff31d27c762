package main

import (
	"kmsfs/keysource"
)

// keyPolicy is a key policy of AWS KMS.
type keyPolicy struct {
	Version   string            `json:"Version"`
	Statement []policyStatement `json:"Statement"`
}

// policyStatement is one statement of a key policy.
type policyStatement struct {
	Sid       string                         `json:"Sid"`
	Effect    string                         `json:"Effect"`
	Principal map[string]string              `json:"Principal"`
	Action    []string                       `json:"Action"`
	Resource  string                         `json:"Resource"`
	Condition map[string]map[string][]string `json:"Condition,omitempty"`
}

// leastPolicy is what a mount needs of the CMK and no more. The caller fills in the principal; the account is that of the
// CMK where it is known. The conditions keep other uses of the CMK apart: kmsfs has no other names in its encryption
// contexts, and one of them in all. ForAllValues alone also holds for a call without a context.
func leastPolicy(cmk string) *keyPolicy {
	partition, account := "aws", "ACCOUNT"
	if ref, err := keysource.KeyRef(cmk).Parse(); err == nil && ref.Account != "" {
		partition, account = ref.Partition, ref.Account
	}
	who := map[string]string{"AWS": "arn:" + partition + ":iam::" + account + ":role/ROLE"}
	return &keyPolicy{Version: "2012-10-17", Statement: []policyStatement{
		{Sid: "kmsfs describes the key", Effect: "Allow", Principal: who, Action: []string{"kms:DescribeKey"}, Resource: "*"},
		{Sid: "kmsfs uses the key", Effect: "Allow", Principal: who,
			Action:   []string{"kms:GenerateDataKey", "kms:Decrypt", "kms:ReEncryptFrom", "kms:ReEncryptTo"},
			Resource: "*",
			Condition: map[string]map[string][]string{
				"Null":       {"kms:EncryptionContextKeys": {"false"}},
				"StringLike": {"kms:EncryptionContext:kmsfs:format": {"*"}},
				"ForAllValues:StringEquals": {
					"kms:EncryptionContextKeys": {"kmsfs:volume", "kmsfs:file", "kmsfs:format", keysource.BranchContextName}}}},
	}}
}
