package local

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"kmsfs/keysource"
)

// rotations are the types of a CMK's key materials, the first one's being empty.
func rotations(t *testing.T, s *Store, k keysource.KeyRef) string {
	t.Helper()
	list, err := s.ListKeyRotations(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	var types []string
	for _, r := range list {
		types = append(types, string(r.RotationType))
	}
	return strings.Join(types, ",")
}

// TestScheduledRotation has a CMK rotated by its schedule, in a store that is opened again and again, by one of several
// processes.
func TestScheduledRotation(t *testing.T) {
	clock := new(testClock)
	dir := t.TempDir()
	s := create(t, Config{Dir: dir, Clock: clock})
	var events []Event
	other := mustOpenDir(t, Config{Dir: dir, Clock: clock, CheckInterval: -1, Event: func(e Event) { events = append(events, e) }})
	k := mustCreateKey(t, s)
	dk, err := s.GenerateDataKey(t.Context(), keysource.GenerateDataKeyInput{KeyID: k})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.EnableKeyRotation(t.Context(), k, 90); err != nil {
		t.Fatal(err)
	}
	info, err := s.Key(t.Context(), k)
	if err != nil || info.RotationPeriod != 90 || info.NextRotation.Sub(clock.Now()).Round(time.Hour) != days(90) {
		t.Errorf("got %+v, %v", info, err)
	}
	if err := s.EnableKeyRotation(t.Context(), k, 90); err != nil { // changes nothing
		t.Error(err)
	}
	clock.advance(days(90) - time.Minute)
	if got := rotations(t, s, k); got != "" {
		t.Errorf("early: %s", got)
	}
	clock.advance(2 * time.Minute)
	if got := rotations(t, other, k); got != ",AUTOMATIC" {
		t.Errorf("got %s", got)
	}
	if got := rotations(t, s, k); got != ",AUTOMATIC" {
		t.Errorf("the first process sees %s", got)
	}
	if len(events) != 1 || events[0].Name != EventRotateKey || events[0].KeyID != string(k) || len(events[0].KeyMaterialID) != 64 {
		t.Errorf("events: %+v", events)
	}
	clock.advance(days(400)) // four periods in which nobody came by: one rotation
	again := mustOpenDir(t, Config{Dir: dir, Clock: clock})
	if got := rotations(t, again, k); got != ",AUTOMATIC,AUTOMATIC" {
		t.Errorf("got %s", got)
	}
	if got := rotations(t, again, DefaultAlias); got != ",AUTOMATIC" {
		t.Errorf("the AWS managed CMK: %s", got)
	}
	if r, err := again.Decrypt(t.Context(), keysource.DecryptInput{CiphertextBlob: dk.CiphertextBlob}); err != nil || !r.Plaintext.Equal(dk.Plaintext) {
		t.Errorf("old key material: %v", err)
	}
	if err := again.DisableKeyRotation(t.Context(), k); err != nil {
		t.Fatal(err)
	}
	clock.advance(days(400))
	if got := rotations(t, again, k); got != ",AUTOMATIC,AUTOMATIC" {
		t.Errorf("without a schedule: %s", got)
	}
	if info, err := again.Key(t.Context(), k); err != nil || info.RotationPeriod != 0 || !info.NextRotation.IsZero() {
		t.Errorf("got %+v, %v", info, err)
	}
	for _, period := range []int{-1, 89, 2561} {
		if err := s.EnableKeyRotation(t.Context(), k, period); !errors.Is(err, keysource.ErrInvalidArgument) {
			t.Errorf("%d days: %v", period, err)
		}
	}
	if err := s.EnableKeyRotation(t.Context(), DefaultAlias, 90); !errors.Is(err, keysource.ErrDenied) {
		t.Errorf("AWS managed: %v", err)
	}
}

// TestDueButNotWritable shows that a store that cannot be written works on: what is not rotated stays in use, but
// material that has expired is not used, and the log has one line.
func TestDueButNotWritable(t *testing.T) {
	clock, disk := new(testClock), newMemFS()
	var log bytes.Buffer
	s := create(t, Config{Dir: "/v/keys", fsys: disk, Clock: clock, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	k := mustCreateKey(t, s)
	if err := s.EnableKeyRotation(t.Context(), k, 90); err != nil {
		t.Fatal(err)
	}
	md, err := s.CreateKey(t.Context(), keysource.CreateKeyInput{Origin: keysource.OriginExternal})
	if err != nil {
		t.Fatal(err)
	}
	ext := keysource.KeyRef(md.ARN)
	in := imported(ext, 1, "")
	in.ValidTo = clock.Now().Add(days(1))
	if _, err := s.ImportKeyMaterial(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	dk, err := s.GenerateDataKey(t.Context(), keysource.GenerateDataKeyInput{KeyID: ext})
	if err != nil {
		t.Fatal(err)
	}
	clock.advance(days(100))
	for range 5 {
		disk.mu.Lock()
		disk.failAt, disk.failErr = disk.calls+8, syscall.EROFS // a call of the change, if one is tried
		disk.mu.Unlock()
		if _, err := s.GenerateDataKey(t.Context(), keysource.GenerateDataKeyInput{KeyID: k}); err != nil {
			t.Fatal(err)
		}
		for what, err := range map[string]error{
			"GenerateDataKey": second(s.GenerateDataKey(t.Context(), keysource.GenerateDataKeyInput{KeyID: ext})),
			"Decrypt":         second(s.Decrypt(t.Context(), keysource.DecryptInput{CiphertextBlob: dk.CiphertextBlob})),
		} {
			if !errors.Is(err, keysource.ErrInvalidState) {
				t.Errorf("%s with expired material: %v", what, err)
			}
		}
		if md, err := s.DescribeKey(t.Context(), ext); err != nil || md.KeyState != keysource.KeyStatePendingImport || md.Enabled {
			t.Errorf("got %+v, %v", md, err)
		}
	}
	if n := strings.Count(log.String(), "what is due cannot be carried out"); n != 1 {
		t.Errorf("%d lines in the log: %s", n, log.String())
	}
	clock.advance(2 * settleRetry)
	if got := rotations(t, s, k); got != ",AUTOMATIC" {
		t.Errorf("once it can be written: %s", got)
	}
	for _, m := range s.snap.materials() {
		if m.missing && m.secret != [secretSize]byte{} {
			t.Error("expired material is still in memory")
		}
	}
}

// TestEvents has what happens by itself told: material that expires, pending and not, and the end of a CMK.
func TestEvents(t *testing.T) {
	clock := new(testClock)
	var got []string
	s := create(t, Config{Clock: clock, Event: func(e Event) { got = append(got, e.Name+" "+e.KeyID+" "+e.KeyMaterialID) }})
	k, gone := externalKey(t, s), mustCreateKey(t, s)
	var want []string
	for i, how := range []keysource.ImportType{"", keysource.ImportNewKeyMaterial} {
		in := imported(k, byte(i+1), how)
		in.ValidTo = clock.Now().Add(days(1))
		id, err := s.ImportKeyMaterial(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, EventDeleteMaterial+" "+string(k)+" "+id)
	}
	if _, err := s.ScheduleKeyDeletion(t.Context(), gone, 7); err != nil {
		t.Fatal(err)
	}
	clock.advance(days(2))
	use(t, s, DefaultAlias)
	want = append(want, EventDeleteKey+" "+string(gone)+" ")
	clock.advance(days(6))
	use(t, s, DefaultAlias)
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// second is the error of a call with two results.
func second[T any](_ T, err error) error { return err }

// TestImportLifecycle deletes, expires and restores imported material, over reopening.
func TestImportLifecycle(t *testing.T) {
	clock := new(testClock)
	s, ctx := create(t, Config{Clock: clock}), t.Context()
	md, err := s.CreateKey(ctx, keysource.CreateKeyInput{Origin: keysource.OriginExternal})
	if err != nil {
		t.Fatal(err)
	}
	k := keysource.KeyRef(md.ARN)
	if id, err := s.DeleteImportedKeyMaterial(ctx, k, ""); err != nil || id != "" {
		t.Errorf("nothing to delete: %q, %v", id, err)
	}
	first, err := s.ImportKeyMaterial(ctx, imported(k, 1, ""))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.ImportKeyMaterial(ctx, imported(k, 2, keysource.ImportNewKeyMaterial)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.RotateKeyOnDemand(ctx, k); err != nil {
		t.Fatal(err)
	}
	reopen := func() { s = mustOpenDir(t, Config{Dir: s.cfg.Dir, Clock: clock}) }
	state := func(want keysource.KeyState, missing string) {
		t.Helper()
		reopen()
		md, err := s.DescribeKey(ctx, k)
		list, err2 := s.ListKeyRotations(ctx, k)
		got := ""
		for _, r := range list {
			got += map[bool]string{true: "-", false: "+"}[r.Missing]
		}
		if errors.Join(err, err2) != nil || md.KeyState != want || got != missing {
			t.Errorf("got %s %s, want %s %s", md.KeyState, got, want, missing)
		}
	}
	state(keysource.KeyStateEnabled, "++")
	if id, err := s.DeleteImportedKeyMaterial(ctx, k, first); err != nil || id != first {
		t.Errorf("got %s, %v", id, err)
	}
	state(keysource.KeyStatePendingImport, "-+")
	if b, err := os.ReadFile(s.path); err != nil || len(b) == 0 {
		t.Fatal(err)
	}
	if _, err := s.DeleteImportedKeyMaterial(ctx, k, ""); err != nil {
		t.Error(err)
	}
	state(keysource.KeyStatePendingImport, "--")
	if _, err := s.ImportKeyMaterial(ctx, imported(k, 3, "")); !errors.Is(err, keysource.ErrInvalidArgument) {
		t.Errorf("other material: %v", err)
	}
	in := imported(k, 2, "")
	in.ValidTo = clock.Now().Add(days(2))
	if _, err := s.ImportKeyMaterial(ctx, in); err != nil {
		t.Error(err)
	}
	state(keysource.KeyStatePendingImport, "-+")
	if _, err := s.ImportKeyMaterial(ctx, imported(k, 1, "")); err != nil {
		t.Error(err)
	}
	state(keysource.KeyStateEnabled, "++")
	clock.advance(days(3))
	state(keysource.KeyStatePendingImport, "+-")
	if _, err := s.ScheduleKeyDeletion(ctx, k, 7); err != nil {
		t.Error(err)
	}
	if _, err := s.DeleteImportedKeyMaterial(ctx, k, first); err != nil {
		t.Error(err)
	}
	state(keysource.KeyStatePendingDeletion, "--")
	if md, err := s.CancelKeyDeletion(ctx, k); err != nil || md.KeyState != keysource.KeyStatePendingImport {
		t.Errorf("got %+v, %v", md, err)
	}
	in.ValidTo = clock.Now()
	if _, err := s.ImportKeyMaterial(ctx, in); !errors.Is(err, keysource.ErrInvalidArgument) {
		t.Errorf("expired at once: %v", err)
	}
}
