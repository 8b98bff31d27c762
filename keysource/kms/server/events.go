package server

import (
	"context"
	"log/slog"
	"time"

	"kmsfs/keysource"
	"kmsfs/keysource/kms/audit"
	"kmsfs/keysource/local"
)

// eventInterval is how often the CMKs are looked at. That look also carries out what is due, so that a CMK is rotated on
// its day where nobody calls.
const eventInterval = time.Minute

// Keys is what a server wants to know of a key store for the events that nobody calls for; *local.Store is one.
type Keys interface {
	// Keys returns all CMKs.
	Keys(ctx context.Context) ([]local.Key, error)
	// ListKeyRotations returns the key materials of a CMK, the oldest first.
	ListKeyRotations(ctx context.Context, key keysource.KeyRef) ([]keysource.KeyRotation, error)
}

// seen is what is remembered of a CMK.
type seen struct{ arn, material string }

// events writes a record where a CMK has been rotated or deleted, until ctx ends. What happens while no server runs has
// none.
func (s *Server) events(ctx context.Context) {
	known, err := s.look(ctx)
	for {
		if e := s.cfg.Clock.Sleep(ctx, eventInterval); e != nil {
			return
		}
		var now map[string]seen
		if now, err = s.look(ctx); err != nil {
			s.cfg.Logger.Warn("the CMKs cannot be looked at", slog.Any("error", err))
			continue
		}
		if known != nil {
			s.compare(ctx, known, now)
		}
		known = now
	}
}

// look remembers all CMKs.
func (s *Server) look(ctx context.Context) (map[string]seen, error) {
	keys, err := s.cfg.Keys.Keys(ctx)
	if err != nil {
		return nil, err
	}
	all := make(map[string]seen, len(keys))
	for _, k := range keys {
		all[k.KeyID] = seen{k.ARN, k.CurrentKeyMaterialID}
	}
	return all, nil
}

// compare writes a record for each CMK that has changed.
func (s *Server) compare(ctx context.Context, before, now map[string]seen) {
	for id, old := range before {
		k, ok := now[id]
		switch {
		case !ok:
			s.event("DeleteKey", old.arn, map[string]any{"keyId": id}, nil)
		case k.material != old.material && k.material != "" && old.material != "":
			s.event("RotateKey", k.arn, map[string]any{"keyId": id, "rotationType": s.rotationType(ctx, id, k.material)},
				map[string]string{"keyMaterialId": k.material})
		}
	}
}

// rotationType says why a key material became current.
func (s *Server) rotationType(ctx context.Context, id, material string) string {
	rotations, err := s.cfg.Keys.ListKeyRotations(ctx, keysource.KeyRef(id))
	if err != nil {
		return ""
	}
	for _, r := range rotations {
		if r.KeyMaterialID == material {
			return string(r.RotationType)
		}
	}
	return ""
}

// event writes the record of what the service did by itself.
func (s *Server) event(name, arn string, details map[string]any, more map[string]string) {
	room, err := s.cfg.Audit.Reserve(recordRoom)
	if err == nil {
		err = room.Append(&audit.Record{
			EventName: name, EventType: "AwsServiceEvent", EventTime: audit.Time(s.cfg.Clock.Now()), EventID: audit.NewID(),
			AWSRegion: s.cfg.Region, RecipientAccountID: s.cfg.Account, SourceIPAddress: "kmsfs",
			UserIdentity:        &audit.UserIdentity{Type: "AWSService", AccountID: s.cfg.Account, InvokedBy: "kmsfs"},
			Resources:           []audit.Resource{{AccountID: s.cfg.Account, Type: "AWS::KMS::Key", ARN: arn}},
			ServiceEventDetails: details, AdditionalEventData: more,
		})
	}
	if err != nil {
		s.cfg.Logger.Error("an event is not in the audit log", slog.String("event", name), slog.String("key", arn), slog.Any("error", err))
	}
}
