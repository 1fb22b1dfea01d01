package api

import (
	"context"
	"path"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"had/internal/peer"
	"had/internal/pki"
	hadv1 "had/proto/had/v1"
)

// roleFor is the one table of who may call what: the least role for an RPC of
// HA. An RPC that isn't in it nobody may call. docs/security.md shows it, and
// tests hold both against the proto.
func roleFor(method string) (pki.Role, bool) {
	switch method {
	case hadv1.HA_Status_FullMethodName,
		hadv1.HA_History_FullMethodName,
		hadv1.HA_Watch_FullMethodName,
		hadv1.HA_PolicyValidate_FullMethodName,
		hadv1.HA_PolicyShow_FullMethodName,
		hadv1.HA_PolicyPlan_FullMethodName,
		hadv1.HA_PolicyVersions_FullMethodName,
		hadv1.HA_TokenShow_FullMethodName,
		hadv1.HA_Timing_FullMethodName,
		hadv1.HA_Version_FullMethodName,
		hadv1.HA_WhyNot_FullMethodName,
		hadv1.HA_ShowLogLevel_FullMethodName,
		hadv1.HA_HookList_FullMethodName,
		hadv1.HA_NodeList_FullMethodName:
		return pki.Viewer, true
	case hadv1.HA_Move_FullMethodName,
		hadv1.HA_Freeze_FullMethodName,
		hadv1.HA_Unfreeze_FullMethodName,
		hadv1.HA_Drain_FullMethodName,
		hadv1.HA_Undrain_FullMethodName,
		hadv1.HA_Resume_FullMethodName,
		hadv1.HA_SyncRun_FullMethodName,
		hadv1.HA_NotifyTest_FullMethodName,
		hadv1.HA_Preflight_FullMethodName, // it may run the Test scripts
		hadv1.HA_HookRun_FullMethodName:
		return pki.Operator, true
	case hadv1.HA_ConfirmFence_FullMethodName,
		hadv1.HA_SyncResume_FullMethodName, // it may overwrite the newest copy
		hadv1.HA_PolicyApply_FullMethodName,
		hadv1.HA_PolicyConfirm_FullMethodName,
		hadv1.HA_TokenSet_FullMethodName,
		hadv1.HA_TokenForget_FullMethodName,
		hadv1.HA_TokenKey_FullMethodName,
		hadv1.HA_UpgradeFinish_FullMethodName,
		hadv1.HA_LogLevel_FullMethodName,
		hadv1.HA_NodeAdd_FullMethodName,
		hadv1.HA_NodeRemove_FullMethodName,
		hadv1.HA_SnapshotSave_FullMethodName, // it has all that hooks ever printed
		hadv1.HA_SnapshotRestore_FullMethodName:
		return pki.Admin, true
	}
	return pki.NoRole, false
}

// operatorOf returns who calls from elsewhere, as the cluster port has
// authenticated it; false when the call came another way.
func operatorOf(ctx context.Context) (peer.Operator, bool) {
	p, ok := grpcpeer.FromContext(ctx)
	if !ok {
		return peer.Operator{}, false
	}
	o, ok := p.Addr.(peer.Operator)
	return o, ok
}

// admits decides whether the caller may use a method.
type admits func(ctx context.Context, method string) error

func denied(format string, args ...any) error {
	return status.Errorf(codes.PermissionDenied, format, args...)
}

// byRoot admits whoever could open the socket, which is root: an admin.
func byRoot(ctx context.Context, method string) error {
	if !local(ctx) {
		return denied("this way in is for the local socket")
	}
	return byRole(pki.Admin, "root", method)
}

// byNode admits the other nodes: to what they ask each other, and with what an
// operator has asked one of them, who has checked that.
func byNode(ctx context.Context, method string) error {
	if callerOf(ctx) == "" {
		return denied("this way in is for nodes")
	}
	if _, ok := roleFor(method); ok || nodesOwn(method) {
		return nil
	}
	return unlisted(method)
}

// nodesOwn reports whether a method is of the service that nodes have for each
// other.
func nodesOwn(method string) bool {
	return strings.HasPrefix(method, "/"+hadv1.Peer_ServiceDesc.ServiceName+"/")
}

// byOperator admits by the certificate, for as long as that is valid.
func byOperator(ctx context.Context, method string) error {
	o, ok := operatorOf(ctx)
	switch {
	case !ok:
		return denied("this way in is for operators with a certificate")
	case time.Now().After(o.Until):
		return denied("the certificate of %s has expired: hactl tls issue --renew makes a new one", o.Name)
	}
	return byRole(o.Role, o.Name, method)
}

func byRole(has pki.Role, who, method string) error {
	needs, ok := roleFor(method)
	switch {
	case !ok:
		return unlisted(method)
	case has < needs:
		return denied("%s has the role %s, and %s needs the role %s", who, has, path.Base(method), needs)
	}
	return nil
}

func unlisted(method string) error {
	return denied("no role may call %s: it is missing from the table of roles", path.Base(method))
}

// guarded are the options of a server whose every call is admitted first.
func guarded(admit admits) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if err := admit(ctx, info.FullMethod); err != nil {
				return nil, err
			}
			signed(ctx, req)
			return next(ctx, req)
		}),
		grpc.ChainStreamInterceptor(func(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			if err := admit(s.Context(), info.FullMethod); err != nil {
				return err
			}
			return next(srv, signedStream{s})
		}),
	}
}

// signed puts the name of the certificate into the request of an operator from
// elsewhere, whatever it said: who did it is in the history.
func signed(ctx context.Context, req any) {
	o, ok := operatorOf(ctx)
	m, isMessage := req.(proto.Message)
	if !ok || !isMessage {
		return
	}
	r := m.ProtoReflect()
	if by := r.Descriptor().Fields().ByName("by"); by != nil && by.Kind() == protoreflect.StringKind && !by.IsList() {
		r.Set(by, protoreflect.ValueOfString(o.String()))
	}
}

// signedStream does so with what comes on a stream.
type signedStream struct{ grpc.ServerStream }

// RecvMsg implements grpc.ServerStream.
func (s signedStream) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	if err == nil {
		signed(s.Context(), m)
	}
	return err
}
