package server

import (
	"crypto/tls"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"kmsfs/keysource"
	"kmsfs/keysource/kms"
	"kmsfs/keysource/kms/audit"
)

// TestRoomFor: no record is larger than the room that was taken for it, whatever a client sends.
func TestRoomFor(t *testing.T) {
	b := newTestbed(t, nil, "administrator", "user")
	id, _ := b.users.Lookup(b.key.ID)
	control := strings.Repeat("\\u0001", 8192)
	refused := keysource.NewError("", "", keysource.CodeNotFound, "Invalid keyId "+strings.Repeat("\x01", 100<<10))
	for name, c := range map[string]struct {
		op, body string
		err      error // in place of what the operation answers
	}{
		"description":      {"CreateKey", `{"Description":"` + control + `"}`, nil},
		"long description": {"CreateKey", `{"Description":"` + strings.Repeat(control, 4) + `"}`, nil},
		"a name":           {"DescribeKey", `{"KeyId":"` + strings.Repeat(control, 4) + `"}`, nil},
		"a long message":   {"DescribeKey", `{"KeyId":"x"}`, refused},
		"separators":       {"Encrypt", `{"KeyId":"alias/aws/kmsfs","Plaintext":"AA==","EncryptionContext":{"a":"` + strings.Repeat("\u2028", 2000) + `"}}`, nil},
	} {
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		r.TLS = &tls.ConnectionState{Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256}
		r.Host = strings.Repeat(`"`, 16<<10)
		r.Header.Set("User-Agent", strings.Repeat("\"\xff", 8<<10))
		call := &call{s: b.s, w: httptest.NewRecorder(), r: r, name: c.op}
		call.call.Caller, call.call.EventID, call.call.RequestID = id.Caller, audit.NewID(), audit.NewID()
		op := b.s.operations[c.op]
		in := op.NewInput()
		if err := decode([]byte(c.body), in); err != nil {
			t.Fatal(name, err)
		}
		_, err := op.Do(t.Context(), b.s.cfg.Service, &call.call, in)
		if c.err != nil {
			err = c.err
		}
		rec := call.record(op, err)
		text, failed := json.Marshal(rec)
		const link = 200 // what the log puts before it
		if room := roomFor(op, []byte(c.body)); failed != nil || len(text)+link > room && room < audit.MaxRecordSize {
			t.Errorf("%s: %d bytes in the room of %d, %v", name, len(text)+link, room, failed)
		}
		if len(rec.UserAgent) > maxUserAgent || len(rec.TLSDetails.HostHeader) > maxHost || len(rec.ErrorMessage) > maxErrorMessage {
			t.Errorf("%s: a long text is recorded", name)
		}
		if key, ok := rec.RequestParameters["description"].(string); ok && err != nil && len(key) > maxFailedParameter {
			t.Errorf("%s: %d bytes of a parameter of a call that failed", name, len(key))
		}
	}
	if n := roomFor(kms.Operation{Name: "CreateKey"}, nil); n != audit.MaxRecordSize {
		t.Errorf("room of a call that changes something: %d", n)
	}
}
