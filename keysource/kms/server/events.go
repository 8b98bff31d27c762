package server

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"kmsfs/keysource/kms/audit"
	"kmsfs/keysource/kms/identity"
	"kmsfs/keysource/local"
)

// dueInterval is how often Config.Due is called.
const dueInterval = time.Minute

// Event writes what happened to a CMK without a call into the audit log, as CloudTrail's service events. It is for
// local.Config.Event.
func (s *Server) Event(e local.Event) {
	_, id, _ := strings.Cut(e.KeyID, ":key/")
	details := map[string]any{"keyId": id}
	if e.Name == local.EventRotateKey {
		details["rotationType"] = "AUTOMATIC"
	}
	r := &audit.Record{EventName: e.Name, EventTime: audit.Time(e.Time), ServiceEventDetails: details,
		Resources: []audit.Resource{{AccountID: s.cfg.Account, Type: "AWS::KMS::Key", ARN: e.KeyID}}}
	if e.KeyMaterialID != "" {
		r.AdditionalEventData = map[string]string{"keyMaterialId": e.KeyMaterialID}
	}
	s.event(r)
}

// Changed writes what an administrator of the key store changed about its users into the audit log. It is for
// identity.Config.Changed.
func (s *Server) Changed(all []identity.Change) {
	for _, c := range all {
		details := map[string]any{"principal": c.Principal}
		for name, value := range map[string]string{"policy": c.Policy, "accessKeyId": c.AccessKeyID, "status": c.Status} {
			if value != "" {
				details[name] = value
			}
		}
		s.event(&audit.Record{EventName: c.Name, EventSource: "iam.amazonaws.com", EventTime: audit.Time(s.cfg.Clock.Now()), ServiceEventDetails: details})
	}
}

// event writes the record of what nobody called the server for.
func (s *Server) event(r *audit.Record) {
	r.EventType, r.EventID, r.SourceIPAddress = "AwsServiceEvent", audit.NewID(), "kmsfs"
	r.AWSRegion, r.RecipientAccountID = s.cfg.Region, s.cfg.Account
	r.UserIdentity = &audit.UserIdentity{Type: "AWSService", AccountID: s.cfg.Account, InvokedBy: "kmsfs"}
	room, err := s.cfg.Audit.Reserve(recordRoom)
	if err == nil {
		err = room.Append(r)
	}
	if err != nil { // it has happened, and nobody is there to be told
		s.cfg.Logger.Error("an event is not in the audit log", slog.String("event", r.EventName), slog.Any("details", r.ServiceEventDetails), slog.Any("error", err))
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
