package kms_test

import (
	"bytes"
	"context"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

func itoa(n int) string { return strconv.Itoa(n) }

// ledger is what the server has confirmed. It is safe for concurrent use.
type ledger struct {
	mu       sync.Mutex
	keys     []string          // CMKs
	aliases  map[string]string // to CMKs
	rotated  map[string]int    // confirmed rotations by CMK
	asked    map[string]int    // rotations that were asked for
	boxes    []box
	requests []string
}

// box is a data key in plaintext and wrapped.
type box struct{ plaintext, blob []byte }

// note changes the ledger.
func (l *ledger) note(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
}

// TestKill kills the server under load with SIGKILL, KMSFS_TEST_KILLS times (5), and starts it again: all that it had
// confirmed is there, nothing is half done, and the audit log has every call that was answered.
func TestKill(t *testing.T) {
	t.Parallel()
	kills := 5
	if s := os.Getenv("KMSFS_TEST_KILLS"); s != "" {
		var err error
		if kills, err = strconv.Atoi(s); err != nil {
			t.Fatalf("KMSFS_TEST_KILLS: %v", err)
		}
	}
	b := newBench(t)
	k := b.user("admin", "administrator", "user")
	l := &ledger{aliases: map[string]string{}, rotated: map[string]int{}, asked: map[string]int{}}
	for round := range kills {
		b.start()
		l.check(t, sdk(b.urls[0], k, nil))
		ctx, stop := context.WithCancel(t.Context())
		var workers sync.WaitGroup
		for i := range 4 {
			workers.Go(func() { l.work(ctx, sdk(b.urls[0], k, nil), itoa(round)+"-"+itoa(i)) })
		}
		time.Sleep(time.Duration(150+round*37%200) * time.Millisecond)
		b.kill()
		stop()
		workers.Wait()
	}
	b.start()
	l.check(t, sdk(b.urls[0], k, nil))
	b.stop()
	trail := b.verified()
	for _, id := range l.requests {
		if !strings.Contains(trail, id) {
			t.Errorf("the answered call %s is not in the audit log", id)
		}
	}
	if len(l.keys) < kills || len(l.boxes) < kills || len(l.aliases) < kills {
		t.Errorf("only %d CMKs, %d aliases and %d data keys were made", len(l.keys), len(l.aliases), len(l.boxes))
	}
	t.Logf("%d kills, %d CMKs, %d aliases, %d data keys, %d calls", kills, len(l.keys), len(l.aliases), len(l.boxes), len(l.requests))
}

// work makes changes until the server is gone.
func (l *ledger) work(ctx context.Context, c *kms.Client, name string) {
	for i := 0; ; i++ {
		made, err := c.CreateKey(ctx, &kms.CreateKeyInput{Description: aws.String(name)})
		if err != nil {
			return
		}
		id := made.KeyMetadata.KeyId
		l.note(func() {
			l.keys = append(l.keys, *id)
			l.answered(middleware.GetRequestIDMetadata(made.ResultMetadata))
		})
		alias := "alias/" + name + "-" + itoa(i)
		if _, err := c.CreateAlias(ctx, &kms.CreateAliasInput{AliasName: &alias, TargetKeyId: id}); err != nil {
			return
		}
		l.note(func() { l.aliases[alias] = *id })
		for range 2 {
			key, err := c.GenerateDataKey(ctx, &kms.GenerateDataKeyInput{KeyId: &alias, KeySpec: types.DataKeySpecAes256})
			if err != nil {
				return
			}
			l.note(func() {
				l.boxes = append(l.boxes, box{key.Plaintext, key.CiphertextBlob})
				l.answered(middleware.GetRequestIDMetadata(key.ResultMetadata))
				l.asked[*id]++
			})
			if _, err := c.RotateKeyOnDemand(ctx, &kms.RotateKeyOnDemandInput{KeyId: id}); err != nil {
				return
			}
			l.note(func() { l.rotated[*id]++ })
		}
	}
}

// answered notes a request id.
func (l *ledger) answered(id string, ok bool) {
	if ok {
		l.requests = append(l.requests, id)
	}
}

// check holds the server against the ledger.
func (l *ledger) check(t *testing.T, c *kms.Client) {
	t.Helper()
	ctx := t.Context()
	for _, box := range l.boxes {
		out, err := c.Decrypt(ctx, &kms.DecryptInput{CiphertextBlob: box.blob})
		if err != nil || !bytes.Equal(out.Plaintext, box.plaintext) {
			t.Fatalf("a data key does not open: %v", err)
		}
	}
	for alias, id := range l.aliases {
		out, err := c.DescribeKey(ctx, &kms.DescribeKeyInput{KeyId: &alias})
		if err != nil || *out.KeyMetadata.KeyId != id {
			t.Fatalf("%s: %v", alias, err)
		}
	}
	for _, id := range l.keys {
		out, err := c.ListKeyRotations(ctx, &kms.ListKeyRotationsInput{KeyId: &id})
		if err != nil || len(out.Rotations) < l.rotated[id] || len(out.Rotations) > l.asked[id] {
			t.Fatalf("%s: %d of %d rotations that were confirmed, %d asked for: %v", id, len(out.Rotations), l.rotated[id], l.asked[id], err)
		}
	}
}
