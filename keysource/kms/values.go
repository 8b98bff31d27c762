package kms

import (
	"fmt"
	"io"
	"log/slog"
	"math"
	"strconv"
	"time"

	"kmsfs/keysource"
)

// Time is a point in time, in JSON a number of seconds since 1970 with milliseconds, as AWS writes it.
type Time struct{ time.Time }

// newTime returns t, or nil for the zero time.
func newTime(t time.Time) *Time {
	if t.IsZero() {
		return nil
	}
	return &Time{t}
}

// MarshalJSON implements json.Marshaler.
func (t Time) MarshalJSON() ([]byte, error) {
	ms := t.UnixMilli()
	b := strconv.AppendInt(nil, ms/1000, 10)
	if rest := ms % 1000; rest > 0 && ms > 0 {
		b = fmt.Appendf(b, ".%03d", rest)
	}
	return b, nil
}

// maxSeconds is the year 9999, the last that RFC 3339 can write.
const maxSeconds = 253402300799

// UnmarshalJSON implements json.Unmarshaler. null leaves t as it is.
func (t *Time) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil
	}
	seconds, err := strconv.ParseFloat(string(b), 64)
	if err != nil || math.IsNaN(seconds) || seconds < 0 || seconds > maxSeconds {
		return keysource.NewError("", "", keysource.CodeSerialization, "a timestamp is a number of seconds since 1970")
	}
	whole, fraction := math.Modf(seconds)
	t.Time = time.Unix(int64(whole), int64(math.Round(fraction*1000))*int64(time.Millisecond)).UTC()
	return nil
}

// Secret is bytes that must not be shown: they are base64 in JSON, and "[redacted]" wherever they are printed or
// logged.
type Secret []byte

// redacted is what every way of printing a Secret shows.
const redacted = "[redacted]"

// Wipe overwrites the bytes with zeros.
func (s Secret) Wipe() { clear(s) }

// Format implements fmt.Formatter for every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// Wipe overwrites the plaintext of the request.
func (in *EncryptInput) Wipe() { in.Plaintext.Wipe() }

// Wipe overwrites the plaintext of the answer.
func (out *DecryptOutput) Wipe() { out.Plaintext.Wipe() }

// Wipe overwrites the data key of the answer.
func (out *GenerateDataKeyOutput) Wipe() { out.Plaintext.Wipe() }

// Wipe overwrites the random bytes of the answer.
func (out *GenerateRandomOutput) Wipe() { out.Plaintext.Wipe() }
