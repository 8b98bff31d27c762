package local

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"kmsfs/keysource"
)

// use uses a CMK.
func use(t *testing.T, s *Store, k keysource.KeyRef) keysource.DataKey {
	t.Helper()
	dk, err := s.GenerateDataKey(t.Context(), keysource.GenerateDataKeyInput{KeyID: k})
	if err != nil {
		t.Fatal(err)
	}
	return dk
}

// lastOperation is the last use of a CMK.
func lastOperation(t *testing.T, s *Store, k keysource.KeyRef) string {
	t.Helper()
	u, since, err := s.LastUse(t.Context(), k)
	if err != nil || since.IsZero() {
		t.Fatal(since, err)
	}
	return u.Operation
}

// TestLastUse has uses noted, written once a minute and at the end, merged with those of other processes, and forgotten
// with their CMK.
func TestLastUse(t *testing.T) {
	clock := new(testClock)
	dir := t.TempDir()
	cfg := Config{Dir: dir, Clock: clock}
	s, other := create(t, cfg), mustOpenDir(t, cfg)
	a, b := mustCreateKey(t, s), mustCreateKey(t, s)
	if got := lastOperation(t, s, a); got != "" {
		t.Errorf("got %s", got)
	}
	dk := use(t, s, a)
	if got := lastOperation(t, s, a); got != "GenerateDataKey" {
		t.Errorf("got %s", got)
	}
	if _, err := os.Stat(filepath.Join(dir, UsageName)); !os.IsNotExist(err) {
		t.Errorf("written at once: %v", err)
	}
	clock.advance(usageInterval + time.Second)
	use(t, other, b)
	if _, err := s.Decrypt(t.Context(), keysource.DecryptInput{CiphertextBlob: dk.CiphertextBlob}); err != nil {
		t.Fatal(err)
	}
	// The first process has written its first use; the second writes when it is closed.
	if got := lastOperation(t, other, a); got != "GenerateDataKey" {
		t.Errorf("the other process sees %q", got)
	}
	for _, s := range []*Store{other, s} {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	s = mustOpenDir(t, cfg)
	if got := lastOperation(t, s, a) + " " + lastOperation(t, s, b); got != "Decrypt GenerateDataKey" {
		t.Errorf("after reopening: %s", got)
	}
	_, since, err := s.LastUse(t.Context(), DefaultAlias)
	if err != nil || clock.Now().Sub(since) > 2*time.Minute {
		t.Errorf("got %v, %v", since, err)
	}
	s.NoteUse(string(a)[len(a)-uuidTextSize:], Use{Operation: "Encrypt", Time: clock.Now(), RequestID: "r"})
	if u, _, err := s.LastUse(t.Context(), a); err != nil || u.RequestID != "r" {
		t.Errorf("got %+v, %v", u, err)
	}
	s.NoteUse("no id", Use{})
	// A CMK that is deleted is forgotten.
	if _, err := s.ScheduleKeyDeletion(t.Context(), b, 7); err != nil {
		t.Fatal(err)
	}
	clock.advance(days(8))
	use(t, s, a)
	clock.advance(usageInterval + time.Second)
	use(t, s, a)
	if doc, err := s.readUsage(); err != nil || len(doc.Keys) != 1 {
		t.Errorf("got %v, %v", doc.Keys, err)
	}
	// A damaged record begins anew, and stops nobody.
	for _, content := range []string{"", "x", usageMagic + string(make([]byte, 200))} {
		if err := os.WriteFile(s.usagePath(), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := lastOperation(t, s, a); got != "GenerateDataKey" {
			t.Errorf("got %q", got)
		}
		clock.advance(usageInterval + time.Second)
		use(t, s, a)
		clock.advance(usageInterval + time.Second)
		use(t, s, a)
		if doc, err := s.readUsage(); err != nil || len(doc.Keys) != 1 {
			t.Errorf("got %v, %v", doc.Keys, err)
		}
	}
	// One that cannot be written stops nobody either.
	if err := os.Remove(s.usagePath()); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(s.usagePath()+newSuffix, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.usagePath()+newSuffix, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	clock.advance(usageInterval + time.Second)
	use(t, s, a)
	use(t, s, a)
}
