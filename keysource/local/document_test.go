package local

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"sync"
	"syscall"
	"testing"
)

// document is the one that the tests use.
func document(t *testing.T, s *Store) *Document {
	t.Helper()
	d, err := s.Document("users")
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// put replaces the content.
func put(d *Document, content string) error {
	return d.Update(context.Background(), func([]byte) ([]byte, error) { return []byte(content), nil })
}

// content reads all of it.
func content(t *testing.T, d *Document) string {
	t.Helper()
	b, _, err := d.Read(Revision{})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestDocument(t *testing.T) {
	disk, s, _ := prepared(t)
	d := document(t, s)
	if b, r, err := d.Read(Revision{}); b != nil || r != (Revision{}) || err != nil {
		t.Fatalf("before there is one: %q, %v, %v", b, r, err)
	}
	if err := put(d, "one"); err != nil {
		t.Fatal(err)
	}
	b, first, err := d.Read(Revision{})
	if string(b) != "one" || err != nil {
		t.Fatalf("got %q, %v", b, err)
	}
	if b, r, err := d.Read(first); b != nil || r != first || err != nil {
		t.Errorf("unchanged: %q, %v, %v", b, r, err)
	}
	err = d.Update(t.Context(), func(old []byte) ([]byte, error) { return append([]byte("two after "), old...), nil })
	if err != nil {
		t.Fatal(err)
	}
	other, err := Open(t.Context(), Config{Dir: "/v/keys", fsys: disk})
	if err != nil {
		t.Fatal(err)
	}
	if b, r, err := document(t, other).Read(first); string(b) != "two after one" || r == first || err != nil {
		t.Errorf("of another process: %q, %v, %v", b, r, err)
	}
	failure := errors.New("no")
	if err := d.Update(t.Context(), func([]byte) ([]byte, error) { return nil, failure }); !errors.Is(err, failure) {
		t.Errorf("got %v", err)
	}
	if got := content(t, d); got != "two after one" {
		t.Errorf("after a change that failed: %q", got)
	}
	for _, name := range []string{"", ".", "a/b", "../x", StoreName, KeyFileName, LockName, "users.new"} {
		if _, err := s.Document(name); err == nil {
			t.Errorf("a document may be called %q", name)
		}
	}
}

// TestDocumentDamage changes every byte of a document, cuts it everywhere, puts an old one back and takes it away.
func TestDocumentDamage(t *testing.T) {
	disk, s, _ := prepared(t)
	d := document(t, s)
	if err := put(d, "secret"); err != nil {
		t.Fatal(err)
	}
	node := disk.names["/v/keys/users"]
	good := bytes.Clone(node.content)
	if bytes.Contains(good, []byte("secret")) {
		t.Error("the content is in clear")
	}
	refused := func(what string) {
		t.Helper()
		if b, _, err := d.Read(Revision{}); !errors.Is(err, ErrDamaged) || b != nil {
			t.Errorf("%s: %q, %v", what, b, err)
		}
	}
	for i := range good {
		node.content = bytes.Clone(good)
		node.content[i] ^= 1
		refused("byte " + strconv.Itoa(i))
		node.content = good[:i]
		refused("cut at " + strconv.Itoa(i))
	}
	node.content = good
	disk.names["/v/keys/other"] = node
	moved, err := s.Document("other")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := moved.Read(Revision{}); !errors.Is(err, ErrDamaged) {
		t.Errorf("under another name: %v", err)
	}
	if err := put(d, "newer"); err != nil {
		t.Fatal(err)
	}
	_, now, err := d.Read(Revision{})
	if err != nil {
		t.Fatal(err)
	}
	disk.names["/v/keys/users"] = node
	if _, _, err := d.Read(now); !errors.Is(err, ErrDamaged) {
		t.Errorf("put back: %v", err)
	}
	delete(disk.names, "/v/keys/users")
	if _, _, err := d.Read(now); !errors.Is(err, ErrDamaged) {
		t.Errorf("taken away: %v", err)
	}
}

// TestDocumentCrash cuts the power before every call that a change makes to the disk: afterwards there is the old
// content or the new, and the new where the change was confirmed.
func TestDocumentCrash(t *testing.T) {
	for _, first := range []string{"", "old"} {
		for at := 1; ; at++ {
			disk, s, k := prepared(t)
			d := document(t, s)
			if first != "" {
				if err := put(d, first); err != nil {
					t.Fatal(err)
				}
			}
			disk.mu.Lock()
			disk.crashAt, disk.calls = at, 0
			disk.mu.Unlock()
			err := put(d, "new")
			for seed := range uint64(12) {
				after := mustOpen(t, disk.crash(rand.New(rand.NewPCG(uint64(at), seed))), k, Master{})
				got := content(t, document(t, after))
				if got != "new" && (err == nil || got != first) {
					t.Fatalf("call %d, loss %d: got %q, change %v", at, seed, got, err)
				}
			}
			if err == nil {
				if at < 8 {
					t.Fatalf("only %d calls to the disk", at)
				}
				break
			}
		}
	}
}

// TestDocumentFullDisk fails every call with ENOSPC.
func TestDocumentFullDisk(t *testing.T) {
	for at := 1; ; at++ {
		disk, s, _ := prepared(t)
		d := document(t, s)
		if err := put(d, "old"); err != nil {
			t.Fatal(err)
		}
		disk.mu.Lock()
		disk.failAt, disk.failErr, disk.calls = at, syscall.ENOSPC, 0
		disk.mu.Unlock()
		err := put(d, "new")
		if err != nil && !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("call %d: %v", at, err)
		}
		if got := content(t, d); got != "new" && (err == nil || got != "old") {
			t.Fatalf("call %d: %q after %v", at, got, err)
		}
		if err == nil {
			break
		}
	}
}

// TestDocumentWriters: changes made at once do not lose each other.
func TestDocumentWriters(t *testing.T) {
	_, s, _ := prepared(t)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 10 {
				err := document(t, s).Update(t.Context(), func(old []byte) ([]byte, error) { return append(bytes.Clone(old), 'x'), nil })
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if got := content(t, document(t, s)); len(got) != 40 {
		t.Errorf("%d of 40 changes are there", len(got))
	}
}

// FuzzDocument: no file makes a document panic, and none but the one that was written is opened.
func FuzzDocument(f *testing.F) {
	disk := newMemFS()
	s, err := Create(f.Context(), Config{Dir: "/v/keys", fsys: disk})
	if err != nil {
		f.Fatal(err)
	}
	d, err := s.Document("users")
	if err == nil {
		err = put(d, "secret")
	}
	if err != nil {
		f.Fatal(err)
	}
	node := disk.names["/v/keys/users"]
	good := bytes.Clone(node.content)
	f.Add(good)
	f.Add(good[:documentHeader])
	f.Add([]byte(documentMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		node.content = b
		content, _, err := d.Read(Revision{})
		if err == nil && (string(content) != "secret" || !bytes.Equal(b, good)) {
			t.Errorf("opened %q from %x", content, b)
		}
	})
}
