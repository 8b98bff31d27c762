package kms

import (
	"testing"
	"time"

	"kmsfs/keysource"
)

const day = 24 * time.Hour

// TestAutomaticRotation moves the clock over the dates at which CMKs are rotated. What old material wrapped opens for ever.
func TestAutomaticRotation(t *testing.T) {
	b := newBench(t)
	k := b.newKey(CreateKeyInput{})
	in := `{"KeyId":"` + k + `"}`
	material := func() string {
		t.Helper()
		return b.must(b.root(), "DescribeKey", in)["KeyMetadata"].(map[string]any)["CurrentKeyMaterialId"].(string)
	}
	blob := b.must(b.root(), "Encrypt", `{"KeyId":"`+k+`","Plaintext":"aGk="}`)["CiphertextBlob"].(string)
	if got := b.must(b.root(), "GetKeyRotationStatus", in); got["KeyRotationEnabled"] != false || got["NextRotationDate"] != nil {
		t.Errorf("got %v", got)
	}
	for _, days := range []string{"89", "2561", "0", "-1"} {
		b.refused(b.root(), "EnableKeyRotation", `{"KeyId":"`+k+`","RotationPeriodInDays":`+days+`}`, keysource.CodeValidation)
	}
	b.must(b.root(), "EnableKeyRotation", in)
	got := b.must(b.root(), "GetKeyRotationStatus", in)
	if got["KeyRotationEnabled"] != true || got["RotationPeriodInDays"] != 365.0 ||
		int(got["NextRotationDate"].(float64)-float64(b.clock.Now().Unix()))/3600 < 365*24-1 {
		t.Errorf("got %v", got)
	}
	first := material()
	b.clock.advance(364 * day)
	if material() != first {
		t.Error("rotated early")
	}
	b.clock.advance(day - 10*time.Minute)
	b.refused(b.root(), "RotateKeyOnDemand", in, keysource.CodeConflict) // about to be rotated
	b.clock.advance(11 * time.Minute)
	second := material()
	if second == first {
		t.Fatal("not rotated")
	}
	// A rotation on demand does not move the schedule.
	b.clock.advance(100 * day)
	b.must(b.root(), "RotateKeyOnDemand", in)
	third := material()
	b.clock.advance(265 * day)
	fourth := material()
	if fourth == third {
		t.Error("not rotated for the second time")
	}
	list := b.all("ListKeyRotations", `"KeyId":"`+k+`",`, "Rotations", 10)
	var types []string
	for _, r := range list {
		types = append(types, r.(map[string]any)["RotationType"].(string))
	}
	if len(types) != 3 || types[0] != "AUTOMATIC" || types[1] != "ON_DEMAND" || types[2] != "AUTOMATIC" {
		t.Errorf("got %v", types)
	}
	// A disabled CMK is not rotated, and is as soon as it is enabled.
	b.must(b.root(), "DisableKey", in)
	b.clock.advance(3 * 365 * day)
	if material() != fourth {
		t.Error("a disabled CMK was rotated")
	}
	b.must(b.root(), "EnableKey", in)
	if fifth := material(); fifth == fourth || len(b.all("ListKeyRotations", `"KeyId":"`+k+`",`, "Rotations", 10)) != 4 {
		t.Error("not rotated once after it was enabled")
	}
	b.must(b.root(), "DisableKeyRotation", in)
	last := material()
	b.clock.advance(3 * 365 * day)
	if material() != last {
		t.Error("rotated without a schedule")
	}
	if got := b.must(b.root(), "Decrypt", `{"CiphertextBlob":"`+blob+`"}`); got["Plaintext"] != "aGk=" || got["KeyMaterialId"] != first {
		t.Errorf("got %v", got)
	}
	// The AWS managed CMK was rotated every year that somebody came by.
	if n := len(b.all("ListKeyRotations", `"KeyId":"`+b.managed()+`",`, "Rotations", 100)); n < 4 {
		t.Errorf("the AWS managed CMK was rotated %d times", n)
	}
}

// managed is the ARN of the AWS managed CMK.
func (b *bench) managed() string {
	return b.must(b.root(), "DescribeKey", `{"KeyId":"alias/aws/kmsfs"}`)["KeyMetadata"].(map[string]any)["Arn"].(string)
}

func TestDeletion(t *testing.T) {
	b := newBench(t)
	k := b.newKey(CreateKeyInput{})
	in := `{"KeyId":"` + k + `"}`
	b.must(b.root(), "EnableKeyRotation", in)
	b.must(b.root(), "CreateAlias", `{"AliasName":"alias/k","TargetKeyId":"`+k+`"}`)
	for _, days := range []string{"6", "31", "0"} {
		b.refused(b.root(), "ScheduleKeyDeletion", `{"KeyId":"`+k+`","PendingWindowInDays":`+days+`}`, keysource.CodeValidation)
	}
	out := b.must(b.root(), "ScheduleKeyDeletion", in)
	if out["KeyId"] != k || out["KeyState"] != "PendingDeletion" || out["PendingWindowInDays"] != 30.0 || out["DeletionDate"] == nil {
		t.Errorf("got %v", out)
	}
	if got := b.must(b.root(), "GetKeyRotationStatus", in); got["KeyRotationEnabled"] != false {
		t.Errorf("got %v", got)
	}
	if got := b.must(b.root(), "CancelKeyDeletion", in); got["KeyId"] != k || b.state(k) != "Disabled" {
		t.Errorf("got %v, %s", got, b.state(k))
	}
	if got := b.must(b.root(), "GetKeyRotationStatus", in); got["KeyRotationEnabled"] != true {
		t.Errorf("got %v", got)
	}
	b.must(b.root(), "ScheduleKeyDeletion", `{"KeyId":"`+k+`","PendingWindowInDays":7}`)
	b.clock.advance(7*day + time.Minute)
	b.refused(b.root(), "DescribeKey", in, keysource.CodeNotFound) // by itself, without any change
	b.refused(b.root(), "DescribeKey", `{"KeyId":"alias/k"}`, keysource.CodeNotFound)
}

func TestLastUsage(t *testing.T) {
	b := newBench(t)
	k, other := b.newKey(CreateKeyInput{}), b.newKey(CreateKeyInput{})
	usage := func(k string) map[string]any {
		t.Helper()
		return b.must(b.root(), "GetKeyLastUsage", `{"KeyId":"`+k+`"}`)
	}
	out := usage(k)
	if len(out["KeyLastUsage"].(map[string]any)) != 0 || out["TrackingStartDate"] != out["KeyCreationDate"] || out["KeyId"] != k {
		t.Errorf("got %v", out)
	}
	c := b.root()
	c.RequestID, c.EventID = "r-7", "e-7"
	blob := b.must(c, "Encrypt", `{"KeyId":"`+k+`","Plaintext":"aGk="}`)["CiphertextBlob"].(string)
	last := usage(k)["KeyLastUsage"].(map[string]any)
	if last["Operation"] != "Encrypt" || last["KmsRequestId"] != "r-7" || last["CloudTrailEventId"] != "e-7" || last["Timestamp"] == nil {
		t.Errorf("got %v", last)
	}
	b.refused(b.root(), "Decrypt", `{"CiphertextBlob":"`+blob+`","EncryptionContext":{"a":"b"}}`, keysource.CodeInvalidCiphertext)
	if got := usage(k)["KeyLastUsage"].(map[string]any)["Operation"]; got != "Encrypt" {
		t.Errorf("a call that failed counts as %v", got)
	}
	b.must(c, "ReEncrypt", `{"CiphertextBlob":"`+blob+`","DestinationKeyId":"`+other+`"}`)
	for _, k := range []string{k, other} {
		if got := usage(k)["KeyLastUsage"].(map[string]any)["Operation"]; got != "ReEncrypt" {
			t.Errorf("got %v", got)
		}
	}
}
