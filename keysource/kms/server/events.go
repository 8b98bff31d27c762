package server

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"kmsfs/keysource/kms/audit"
	"kmsfs/keysource/local"
)

// dueInterval is how often Config.Due is called.
const dueInterval = time.Minute

// Event writes what happened to a CMK without a call into the audit log, as CloudTrail's service events. It is for
// local.Config.Event.
func (s *Server) Event(e local.Event) {
	room, err := s.cfg.Audit.Reserve(recordRoom)
	if err == nil {
		_, id, _ := strings.Cut(e.KeyID, ":key/")
		details := map[string]any{"keyId": id}
		if e.Name == local.EventRotateKey {
			details["rotationType"] = "AUTOMATIC"
		}
		r := &audit.Record{
			EventName: e.Name, EventType: "AwsServiceEvent", EventTime: audit.Time(e.Time), EventID: audit.NewID(),
			AWSRegion: s.cfg.Region, RecipientAccountID: s.cfg.Account, SourceIPAddress: "kmsfs",
			UserIdentity:        &audit.UserIdentity{Type: "AWSService", AccountID: s.cfg.Account, InvokedBy: "kmsfs"},
			Resources:           []audit.Resource{{AccountID: s.cfg.Account, Type: "AWS::KMS::Key", ARN: e.KeyID}},
			ServiceEventDetails: details,
		}
		if e.KeyMaterialID != "" {
			r.AdditionalEventData = map[string]string{"keyMaterialId": e.KeyMaterialID}
		}
		err = room.Append(r)
	}
	if err != nil { // it has happened, and nobody is there to be told
		s.cfg.Logger.Error("an event is not in the audit log", slog.String("event", e.Name), slog.String("key", e.KeyID), slog.Any("error", err))
	}
}

// carryOut calls Config.Due from time to time until ctx ends.
func (s *Server) carryOut(ctx context.Context) {
	for s.cfg.Clock.Sleep(ctx, dueInterval) == nil {
		if err := s.cfg.Due(ctx); err != nil && ctx.Err() == nil {
			s.cfg.Logger.Warn("what is due cannot be carried out", slog.Any("error", err))
		}
	}
}
