package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// MaxRecordSize is the largest line in bytes, as CloudTrail bounds an event. In a larger one the largest values of the
// request parameters, response elements and event details are replaced by their size and hash.
const MaxRecordSize = 64 << 10

// Record is what CloudTrail records of a call; the field names are CloudTrail's.
type Record struct {
	// EventVersion, EventSource, EventType, EventCategory and ManagementEvent are set by Append where they are empty.
	EventVersion string `json:"eventVersion"`
	// UserIdentity is who called.
	UserIdentity *UserIdentity `json:"userIdentity"`
	// EventTime is when; it is written in seconds.
	EventTime       Time   `json:"eventTime"`
	EventSource     string `json:"eventSource"`
	EventName       string `json:"eventName"`
	AWSRegion       string `json:"awsRegion"`
	SourceIPAddress string `json:"sourceIPAddress"`
	UserAgent       string `json:"userAgent,omitempty"`
	// ErrorCode and ErrorMessage are of a call that failed.
	ErrorCode    string `json:"errorCode,omitempty"`
	ErrorMessage string `json:"errorMessage,omitempty"`
	// RequestParameters and ResponseElements hold no secret.
	RequestParameters map[string]any `json:"requestParameters"`
	ResponseElements  map[string]any `json:"responseElements"`
	// AdditionalEventData has the key material ids.
	AdditionalEventData map[string]string `json:"additionalEventData,omitempty"`
	RequestID           string            `json:"requestID,omitempty"`
	EventID             string            `json:"eventID"`
	ReadOnly            bool              `json:"readOnly"`
	Resources           []Resource        `json:"resources,omitempty"`
	EventType           string            `json:"eventType"`
	ManagementEvent     bool              `json:"managementEvent"`
	RecipientAccountID  string            `json:"recipientAccountId,omitempty"`
	// ServiceEventDetails are of an event that nobody called for.
	ServiceEventDetails map[string]any `json:"serviceEventDetails,omitempty"`
	EventCategory       string         `json:"eventCategory"`
	TLSDetails          *TLSDetails    `json:"tlsDetails,omitempty"`
	// OmittedForSize tells that the record was too large: values in it were replaced by {"bytes":N,"blake3":"HEX"}.
	OmittedForSize bool `json:"omittedForSize,omitempty"`
}

// UserIdentity is who called.
type UserIdentity struct {
	// Type is IAMUser, AssumedRole, Root or AWSService.
	Type        string `json:"type"`
	PrincipalID string `json:"principalId,omitempty"`
	ARN         string `json:"arn,omitempty"`
	AccountID   string `json:"accountId,omitempty"`
	AccessKeyID string `json:"accessKeyId,omitempty"`
	UserName    string `json:"userName,omitempty"`
	InvokedBy   string `json:"invokedBy,omitempty"`
}

// Resource is a CMK or alias that a call was about.
type Resource struct {
	AccountID string `json:"accountId"`
	Type      string `json:"type"`
	ARN       string `json:"ARN"`
}

// TLSDetails says how the call came over TLS.
type TLSDetails struct {
	TLSVersion  string `json:"tlsVersion"`
	CipherSuite string `json:"cipherSuite"`
	HostHeader  string `json:"clientProvidedHostHeader,omitempty"`
}

// Time is a point in time, written as CloudTrail does.
type Time time.Time

// MarshalText implements encoding.TextMarshaler.
func (t Time) MarshalText() ([]byte, error) {
	return time.Time(t).UTC().AppendFormat(nil, "2006-01-02T15:04:05Z"), nil
}

// complete fills in what is the same in all records.
func (r *Record) complete() {
	set := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	set(&r.EventVersion, "1.11")
	set(&r.EventSource, "kms.amazonaws.com")
	set(&r.EventType, "AwsApiCall")
	set(&r.EventCategory, "Management")
	r.ManagementEvent = true
}

// marshal returns r as one line of JSON, without a line end, and at most MaxRecordSize bytes.
func (r *Record) marshal() ([]byte, error) {
	r.complete()
	b, err := r.encode()
	if err != nil || len(b)+linkSize <= MaxRecordSize {
		return b, err
	}
	short := *r
	short.OmittedForSize = true
	const most = 1 << 10
	short.UserAgent, short.ErrorMessage = clip(r.UserAgent, most), clip(r.ErrorMessage, most)
	for _, limit := range []int{2 << 10, 256} { // the first leaves a CMK's metadata alone, all but its description
		err := errors.Join(shorten(&short.RequestParameters, limit), shorten(&short.ResponseElements, limit),
			shorten(&short.ServiceEventDetails, limit))
		if err != nil {
			return nil, err
		}
		if b, err = short.encode(); err != nil || len(b)+linkSize <= MaxRecordSize {
			return b, err
		}
	}
	return nil, fmt.Errorf("a record of %d bytes", len(b)) // what is left is the server's own, and bounded
}

// encode is r in JSON.
func (r *Record) encode() ([]byte, error) { return encode(r) }

// encode is v in JSON, without a line end.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// clip bounds a text.
func clip(s string, most int) string {
	if len(s) > most {
		return s[:most]
	}
	return s
}
