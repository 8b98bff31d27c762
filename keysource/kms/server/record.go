package server

import (
	"crypto/tls"
	"strings"

	"kmsfs/keysource/kms"
	"kmsfs/keysource/kms/audit"
)

// recordRoom is how many bytes a line of the audit log may have beside the parameters of the request.
const recordRoom = 12 << 10

// How many bytes are recorded of texts of the client's.
const (
	maxUserAgent       = 512
	maxHost            = 512
	maxErrorMessage    = 1 << 10 // which can hold the name of a CMK
	maxFailedParameter = 1 << 10 // each text, of a call that failed: nothing came of the rest
)

// roomFor is the room that the record of a call needs at most. JSON in JSON takes at most twice the bytes: a character
// that has to be escaped was escaped in the request, but for U+2028 and U+2029. What an operation that changes something
// answers may repeat the request.
func roomFor(op kms.Operation, body []byte) int {
	if !op.ReadOnly {
		return audit.MaxRecordSize
	}
	return recordRoom + 2*len(body)
}

// record is the audit record of a call that ended with err.
func (c *call) record(op kms.Operation, err error) *audit.Record {
	a := &c.call.Audit
	r := &audit.Record{
		UserIdentity:      userIdentity(&c.call.Caller),
		EventTime:         audit.Time(c.s.cfg.Clock.Now()),
		EventName:         op.Name,
		AWSRegion:         c.s.cfg.Region,
		SourceIPAddress:   sourceName(c.r),
		RequestParameters: a.RequestParameters,
		ResponseElements:  a.ResponseElements,
		RequestID:         c.call.RequestID,
		EventID:           c.call.EventID,
		ReadOnly:          op.ReadOnly,
		TLSDetails:        tlsDetails(c.r.TLS, clip(c.r.Host, maxHost)),
		UserAgent:         clip(c.r.UserAgent(), maxUserAgent),
	}
	r.RecipientAccountID = c.s.cfg.Account
	if err != nil {
		f := failureOf(err)
		r.ErrorCode, r.ErrorMessage = f.code, clip(f.message, maxErrorMessage)
		for name, value := range r.RequestParameters {
			if text, ok := value.(string); ok {
				r.RequestParameters[name] = clip(text, maxFailedParameter)
			}
		}
	}
	for _, at := range a.Resources {
		kind := "AWS::KMS::Key"
		if strings.Contains(at.ARN, ":alias/") {
			kind = "AWS::KMS::Alias"
		}
		r.Resources = append(r.Resources, audit.Resource{AccountID: at.AccountID, Type: kind, ARN: at.ARN})
	}
	r.AdditionalEventData = additional(a)
	return r
}

// clip is the begin of s, at most so many bytes of UTF-8.
func clip(s string, most int) string { return strings.ToValidUTF8(s[:min(len(s), most)], "") }

// additional has the key material ids, and the grant that allowed the call.
func additional(a *kms.Audit) map[string]string {
	var data map[string]string
	for _, p := range []struct{ name, value string }{
		{"keyMaterialId", a.KeyMaterialID}, {"sourceKeyMaterialId", a.SourceKeyMaterialID},
		{"destinationKeyMaterialId", a.DestinationKeyMaterialID}, {"grantId", a.GrantID},
	} {
		if p.value == "" {
			continue
		}
		if data == nil {
			data = map[string]string{}
		}
		data[p.name] = p.value
	}
	return data
}

// userIdentity is the caller as CloudTrail writes one.
func userIdentity(c *kms.Caller) *audit.UserIdentity {
	u := &audit.UserIdentity{Type: "Role", PrincipalID: c.PrincipalID, ARN: c.ARN, AccountID: c.AccountID,
		AccessKeyID: c.AccessKeyID, UserName: c.UserName}
	if c.UserName != "" {
		u.Type = "IAMUser"
	}
	return u
}

// tlsDetails says how a call came over TLS; nil where it did not.
func tlsDetails(s *tls.ConnectionState, host string) *audit.TLSDetails {
	if s == nil {
		return nil
	}
	return &audit.TLSDetails{TLSVersion: strings.Replace(tls.VersionName(s.Version), "TLS 1", "TLSv1", 1),
		CipherSuite: tls.CipherSuiteName(s.CipherSuite), HostHeader: host}
}
