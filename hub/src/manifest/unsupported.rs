//! Fields that people know from Kubernetes and that mean nothing here (yet):
//! for each, what to use instead.

/// Which mapping a field stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The document itself.
    Object,
    /// A document of kind Config.
    Config,
    /// A document of kind Secret.
    Secret,
    /// A variable's `valueFrom`.
    ValueFrom,
    /// `metadata`.
    Metadata,
    /// `spec` of an app.
    AppSpec,
    /// `spec` of a job, or `spec.jobTemplate.spec` of a CronJob.
    JobSpec,
    /// `spec` of a CronJob.
    CronSpec,
    /// `spec.placement`.
    Placement,
    /// `spec.template`.
    Template,
    /// `spec.template.spec`.
    Pod,
    /// The pod's `securityContext`.
    PodSecurity,
    /// One container.
    Container,
    /// A container's `securityContext`.
    ContainerSecurity,
    /// One environment variable.
    Env,
    /// A container's `resources`.
    Resources,
    /// `resources.limits`.
    Limits,
    /// `resources.requests`.
    Requests,
    /// One volume mount.
    VolumeMount,
    /// One volume.
    Volume,
    /// Inside a volume's source.
    VolumeSource,
    /// `spec.strategy`.
    Strategy,
    /// One of `spec.dependsOn`.
    Dependency,
    /// A container's `logging`.
    Logging,
    /// `seccompProfile` or `appArmorProfile`.
    Profile,
    /// `capabilities`.
    Capabilities,
    /// A probe.
    Probe,
    /// A container's `lifecycle`.
    Lifecycle,
    /// `postStart` or `preStop`.
    Hook,
    /// `httpGet`.
    HttpGet,
    /// One of a container's `ports`.
    Port,
    /// One of `spec.services`.
    Service,
    /// One of a service's `ports`.
    ServicePort,
    /// `spec.egress`.
    Egress,
    /// One of its `rules`.
    EgressRule,
    /// One of a rule's `to`.
    Peer,
    /// `ipBlock`.
    IpBlock,
    /// Anything else.
    Other,
}

const NOT_YET: &str = "remove it; a later release will have it";

/// What to do about a field that we know and do not support; `None` for one
/// that nobody knows.
pub(super) fn remedy(place: Place, field: &str) -> Option<&'static str> {
    let remedy = match (place, field) {
        (Place::Object, "status") => "remove it: the hub keeps an app's status itself",
        (Place::Object, "data" | "stringData" | "binaryData") => {
            "write them into a document of its own, of kind: Config or kind: Secret"
        }
        (Place::Config, "stringData") => "write data: there it is plain text",
        (Place::Config, "type") => "remove it; only a Secret has a type",
        (Place::Secret, "binaryData") => "write data: there it is base64",
        (Place::Config | Place::Secret, "spec") => {
            "write data, with a name and a value for each file"
        }
        (Place::ValueFrom, "resourceFieldRef" | "fileKeyRef") => NOT_YET,
        (Place::Object, "services" | "version" | "networks" | "volumes") => {
            "compose files are not read yet: write an App (apiVersion: skerry/v1, kind: App)"
        }

        (Place::Metadata, "labels" | "annotations") => {
            "remove it: apps have no labels yet, devices do (skerry label device NAME key=value)"
        }
        (Place::Metadata, "generateName") => "write the name itself as metadata.name",
        (
            Place::Metadata,
            "uid" | "resourceVersion" | "generation" | "creationTimestamp" | "managedFields"
            | "ownerReferences" | "finalizers" | "selfLink",
        ) => "remove it: it belongs to an object that Kubernetes keeps",

        (Place::AppSpec, "replicas") => {
            "remove it: an app runs once on every device that spec.placement matches"
        }
        (Place::AppSpec, "selector") => {
            "write spec.placement.selector to choose devices, and remove this one"
        }
        (Place::AppSpec, "containers" | "volumes" | "restartPolicy" | "hostNetwork") => {
            "move it to spec.template.spec"
        }
        (Place::AppSpec, "updateStrategy") => {
            "write strategy: { type: DownloadThenStop }, or StartThenStop, or Recreate"
        }
        (Place::AppSpec, "rollout") => {
            "remove it: all devices change at once, and each goes back by itself when the change fails there; spec.placement chooses fewer to begin with"
        }
        (Place::AppSpec, "revisionHistoryLimit" | "paused") => NOT_YET,
        (Place::Strategy, "rollingUpdate") => {
            "remove it: on a device, one new pod starts beside the one old pod"
        }

        (Place::AppSpec, "depends_on") => "write dependsOn, a list of name and condition",
        (Place::Dependency, "app") => "write name",
        (Place::Dependency, "restart" | "required") => NOT_YET,

        (Place::JobSpec, "containers" | "volumes" | "restartPolicy" | "hostNetwork") => {
            "move it to template.spec"
        }
        (Place::JobSpec, "selector" | "manualSelector" | "managedBy") => {
            "remove it: a job's pods are its own; spec.placement chooses devices"
        }
        (
            Place::JobSpec,
            "podFailurePolicy"
            | "successPolicy"
            | "podReplacementPolicy"
            | "backoffLimitPerIndex"
            | "maxFailedIndexes",
        ) => "remove it: backoffLimit and activeDeadlineSeconds say when a job has failed",
        (
            Place::JobSpec,
            "schedule"
            | "timeZone"
            | "concurrencyPolicy"
            | "startingDeadlineSeconds"
            | "successfulJobsHistoryLimit"
            | "failedJobsHistoryLimit",
        ) => "write it in spec of a kind: CronJob",
        (Place::JobSpec, "placement" | "dependsOn" | "services" | "egress") => {
            "move it to spec of the CronJob"
        }
        (
            Place::CronSpec,
            "template"
            | "completions"
            | "backoffLimit"
            | "activeDeadlineSeconds"
            | "ttlSecondsAfterFinished"
            | "parallelism"
            | "completionMode",
        ) => "move it to jobTemplate.spec",
        (Place::CronSpec, "containers" | "volumes" | "restartPolicy" | "hostNetwork") => {
            "move it to jobTemplate.spec.template.spec"
        }
        (
            Place::AppSpec,
            "completions" | "backoffLimit" | "activeDeadlineSeconds" | "ttlSecondsAfterFinished",
        ) => "write kind: Job",
        (Place::AppSpec, "schedule" | "timeZone" | "jobTemplate") => "write kind: CronJob",
        (Place::Other, "metadata") => "remove it: what runs has the CronJob's name",

        (Place::Placement, "replicas" | "spread" | "topologySpreadConstraints") => {
            "remove it: an app runs once on every device that matches"
        }
        (Place::Placement, "nodeSelector" | "labels") => {
            "write selector: \"key=value\", or matchLabels"
        }

        (Place::Template, "metadata") => "remove it: what runs has the app's name",
        (Place::Template, "containers" | "volumes" | "restartPolicy" | "hostNetwork") => {
            "move it to spec.template.spec"
        }

        (Place::Pod, "ephemeralContainers") => "use skerry exec to look into a running container",
        (Place::Pod, "nodeSelector" | "nodeName" | "affinity") => {
            "write spec.placement.selector, as in \"site=berlin\""
        }
        (
            Place::Pod,
            "tolerations"
            | "topologySpreadConstraints"
            | "schedulerName"
            | "priority"
            | "priorityClassName"
            | "runtimeClassName"
            | "overhead"
            | "schedulingGates",
        ) => "remove it: spec.placement alone chooses the devices",
        (Place::Pod, "serviceAccountName" | "serviceAccount" | "automountServiceAccountToken") => {
            "remove it: there is no API server that an app could talk to"
        }
        (Place::Pod, "imagePullSecrets") => {
            "remove it: devices get images from the hub (skerry image pull, skerry image import)"
        }
        (Place::Pod, "subdomain" | "setHostnameAsFQDN") => {
            "remove it: a pod is found by its app's name, as in web.default.skerry.internal"
        }
        (Place::Pod, "ports") => "move it into a container: spec.template.spec.containers[]",
        (Place::Pod, "services" | "egress") => "move it to spec",
        (Place::Pod, "networks" | "networkMode" | "network_mode") => {
            "write network: bridge, host or none"
        }

        (Place::Port, "port" | "target") => "write containerPort",
        (Place::Port, "published") => "write hostPort",
        (Place::Service, "selector" | "type" | "clusterIP" | "sessionAffinity") => {
            "remove it: behind a service are the ready pods of all apps of the namespace that declare its name"
        }
        (Place::ServicePort, "name" | "appProtocol") => {
            "remove it: a service's ports are told apart by their numbers"
        }
        (Place::ServicePort, "nodePort" | "hostPort") => "write hostPort in the container's ports",
        (Place::ServicePort, "containerPort") => "write targetPort",
        (Place::Egress, "to" | "ports") => "move it into an item of rules",
        (Place::Egress, "podSelector" | "policyTypes" | "ingress") => {
            "remove it: egress is about this app, and it is reached by its ports and services only"
        }
        (Place::Egress, "default") => "write policy: Allow or Deny",
        (Place::Egress, "bytesPerSecond") => "write rate, as in rate: 1Mi",
        (Place::EgressRule, "action" | "access") => "write policy: Allow or Deny",
        (Place::EgressRule, "ipBlock" | "cidr") => "write to: [{ ipBlock: { cidr: 10.0.0.0/8 } }]",
        (Place::Peer, "cidr") => "write ipBlock: { cidr: 10.0.0.0/8 }",
        (Place::Peer, "podSelector" | "namespaceSelector") => {
            "name a range of addresses: ipBlock: { cidr: 10.0.0.0/8 }; other namespaces cannot be reached anyway"
        }
        (Place::IpBlock, "except") => {
            "write a rule with policy: Deny for that range before this one"
        }
        (Place::Pod, "activeDeadlineSeconds" | "readinessGates" | "enableServiceLinks") => NOT_YET,
        (Place::Pod, "imagePullPolicy") => {
            "remove it: the hub pins an image's digest at apply, and devices keep what they have"
        }
        (Place::Pod, "logging" | "resources" | "env" | "image" | "command" | "args") => {
            "move it into a container: spec.template.spec.containers[]"
        }

        (
            Place::PodSecurity,
            "capabilities"
            | "privileged"
            | "allowPrivilegeEscalation"
            | "procMount"
            | "readOnlyRootFilesystem",
        ) => "move it to the container's securityContext",
        (Place::ContainerSecurity, "fsGroup" | "supplementalGroups" | "sysctls") => {
            "move it to the pod's securityContext"
        }
        (Place::PodSecurity, "supplementalGroupsPolicy") => "remove it: there is one way only",
        (
            Place::PodSecurity | Place::ContainerSecurity,
            "seLinuxOptions" | "seLinuxChangePolicy",
        ) => "remove it: devices confine apps by seccomp, capabilities and AppArmor",
        (Place::PodSecurity | Place::ContainerSecurity, "windowsOptions") => {
            "remove it: devices run Linux"
        }
        (
            Place::Container,
            "privileged" | "cap_add" | "cap_drop" | "security_opt" | "read_only",
        ) => {
            "write securityContext: privileged, capabilities.add and .drop, seccompProfile, readOnlyRootFilesystem"
        }

        (Place::Container, "imagePullPolicy") => {
            "remove it: the hub pins an image's digest at apply, and devices keep what they have"
        }
        (Place::Container, "restartPolicy") => {
            "move it to spec.template.spec; only an init container has its own"
        }
        (Place::Container, "stopSignal" | "stop_signal") => "write lifecycle: { stopSignal: ... }",
        (Place::Container, "healthcheck") => "write livenessProbe, readinessProbe or startupProbe",
        (Place::Container, "preStop" | "postStart") => "move it under lifecycle",

        (Place::Profile, "localhostProfileName" | "name") => "write localhostProfile",

        (Place::Probe, "grpc") => "use tcpSocket, or exec with a program of the image",
        (Place::Probe, "command") => "write exec: { command: [...] }",
        (Place::Probe, "path" | "port") => "write httpGet: { path: /, port: 8080 }",
        (Place::Hook, "tcpSocket") => "use exec or httpGet: a connection alone does nothing",
        (Place::Hook, "command") => "write exec: { command: [...] }",
        (Place::HttpGet, "headers") => "write httpHeaders, a list of name and value",
        (Place::Container, "volumes") => {
            "declare volumes in spec.template.spec.volumes, and mount them here with volumeMounts"
        }
        (Place::Container, "volumeDevices" | "device") => "write devices, as in [/dev/sda1]",
        (Place::Container, "cpuset" | "cpus" | "mem_limit" | "pids_limit" | "blkio_config") => {
            "write resources: { limits: { cpu, memory, pids }, cpuset, ioWeight }"
        }
        (Place::Container, "user") => "write securityContext.runAsUser",
        (Place::Container, "environment") => "write env, a list of name and value",
        (Place::Container, "entrypoint") => "write command",
        (Place::Container, "working_dir") => "write workingDir",
        (
            Place::Container,
            "stdin"
            | "stdinOnce"
            | "tty"
            | "terminationMessagePath"
            | "terminationMessagePolicy"
            | "resizePolicy",
        ) => "remove it: use skerry exec -it for a terminal, skerry logs for output",

        (Place::Env, "configMapKeyRef" | "configKeyRef" | "secretKeyRef" | "fieldRef") => {
            "move it under valueFrom"
        }

        (Place::Resources, "claims") => {
            "write the resource's name and number under limits, or devices in the container"
        }
        (Place::Resources, "cpu" | "memory" | "pids" | "swap") => "move it under limits",
        (Place::Resources, "reservations") => "write requests",
        (Place::Resources, "cpus") => "write cpuset for which cpus, limits.cpu for how many",
        (Place::Limits | Place::Requests, "ephemeral-storage") => {
            "remove it: write sizeLimit at a volume; the root file system can be refused writes (readOnlyRootFilesystem)"
        }
        (Place::Limits, "cpus") => "write cpu",
        (Place::Limits, "cpuset" | "ioWeight") => "move it to resources",
        (Place::Requests, "pids" | "swap") => "move it under limits",
        (Place::Requests, name) if name.starts_with("hugepages-") => "write it under limits",

        (Place::VolumeMount, "mountPropagation" | "recursiveReadOnly") => {
            "remove it: what is mounted is the container's own, and read-only with all below it"
        }

        (Place::Volume, "projected") => "write a volume for each config and secret",
        (Place::Volume, "downwardAPI") => "write env with valueFrom: { fieldRef: ... }",
        (
            Place::Volume,
            "nfs" | "csi" | "iscsi" | "cephfs" | "rbd" | "fc" | "glusterfs" | "ephemeral"
            | "flexVolume" | "image" | "gitRepo" | "local",
        ) => "use persistentVolumeClaim (kept on the device), hostPath or emptyDir",
        (Place::Volume, "claimName") => "write persistentVolumeClaim: { claimName: NAME }",
        (Place::VolumeSource, "readOnly") => "write readOnly: true in volumeMounts",
        (Place::VolumeSource, "medium" | "sizeLimit") => {
            "remove it; medium is of an emptyDir, sizeLimit of that and of a persistentVolumeClaim"
        }

        (Place::Logging, "driver" | "options") => {
            "remove it: logs are kept on the device, read them with skerry logs"
        }
        _ => return None,
    };
    Some(remedy)
}
