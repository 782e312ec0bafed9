"""The topology as Kubernetes documents for the KubeRay operator (ray.io/v1). Pure: nothing here asks a cluster."""
